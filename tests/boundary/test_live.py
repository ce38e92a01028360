"""A few smuggling attempts on a live consortium; all of them are tried by ``make boundary``."""

import re
import subprocess
import sys
from pathlib import Path


def test_a_live_consortium_refuses_and_goes_on() -> None:
    """Courier and server refuse by name, no byte of it is on the wire, and the study completes."""
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("live.py")), "--sample"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"live (\d+)/(\d+)", done.stdout.splitlines()[-1])
    # At least seven attempts, a site that says no, and the study as a whole.
    assert said is not None
    assert int(said[1]) == int(said[2]) >= 9
