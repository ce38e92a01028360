"""What tests of more than one side need."""

import pytest
from flwr.supercore.task_identity import TaskIdentity


@pytest.fixture
def inside_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower builds messages only inside a task; this test is one."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
