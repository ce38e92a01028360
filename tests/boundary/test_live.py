"""A few smuggling attempts on a live consortium; all of them are tried by ``make boundary``."""

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
    # Seven attempts, a site that says no, and the study as a whole.
    assert "live 9/9" in done.stdout.splitlines()[-1]
