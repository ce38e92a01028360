"""Three kills in one study; the whole matrix is ``make chaos``."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_study_survives_three_kills() -> None:
    """Server app, courier and runner die; every round is committed once, and its model is right."""
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("run.py")), "--sample"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == ("kills 3/3 survived, wrong aggregates 0, rounds lost 0")
