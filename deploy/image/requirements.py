"""What one image needs, from pyproject.toml: ``requirements.py PYPROJECT [EXTRA ...]``.

Apart from the project itself, so that a new release of stillroom does not install torch anew.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]
wanted = list(project["dependencies"])
for extra in sys.argv[2:]:
    wanted += project["optional-dependencies"][extra]
sys.stdout.write("\n".join(wanted) + "\n")
