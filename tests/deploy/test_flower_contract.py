"""What the local Grid relies on in flwr 1.41, one assertion each."""

import inspect

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import (
    inflatable_class_registry,
    inflate_object_from_contents,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from stillroom.deploy.local_grid import LocalGrid, _through_wire


def test_grid_is_abstract_and_we_fill_it() -> None:
    """local_grid.LocalGrid implements every abstract method; a new one would fail here."""
    assert inspect.isabstract(Grid)
    assert not inspect.isabstract(LocalGrid)


def test_task_identity() -> None:
    """local_grid.__post_init__ sets these three, by assignment to the class."""
    for name in ("run_id", "node_id", "task_id"):
        assert name in dir(type(TaskIdentity)), f"TaskIdentity.{name}"


def test_messages_survive_the_wire_without_aliases(
    inside_a_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """local_grid._through_wire: deflate and inflate give an equal message and another array."""
    # A study run in this process leaves its own, stricter class behind (server.arrivals).
    monkeypatch.setitem(inflatable_class_registry, Array.__qualname__, Array)
    value = np.arange(4, dtype=np.float32)
    message = Message(RecordDict({"a": ArrayRecord({"x": Array(value)})}), 7, "train.round")
    message.metadata.__dict__["_message_id"] = message.object_id
    copy = _through_wire(message)

    assert copy.metadata.message_type == "train.round"
    assert copy.metadata.dst_node_id == 7
    np.testing.assert_array_equal(copy.content.array_records["a"]["x"].numpy(), value)
    assert copy.content is not message.content


def test_inflatable_functions() -> None:
    """local_grid._through_wire: by object id, from a mapping that it empties."""
    assert list(inspect.signature(inflate_object_from_contents).parameters)[:2] == [
        "object_id",
        "object_contents",
    ]
    assert callable(get_all_nested_objects)


def test_context_and_run() -> None:
    """local_grid: contexts and an empty run are built by hand."""
    fields = set(inspect.signature(Context).parameters)
    assert {"run_id", "node_id", "node_config", "state", "run_config"} <= fields
    assert Run.create_empty(1).run_id == 1
