"""A disk that fails at any call of a commit, and a process that dies between any two."""

from pathlib import Path

import faults


def test_every_fault_is_survived(tmp_path: Path) -> None:
    """The log verifies afterwards, has all of the append or none, and goes on."""
    found = faults.run_faults(tmp_path)

    assert [fault for fault in found if not fault.survived] == []
    for way in ("lost", "done", "killed"):
        mine = [fault for fault in found if fault.way == way]
        assert len(mine) > 30
        assert 0 < sum(fault.committed for fault in mine) < len(mine)
