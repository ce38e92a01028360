"""A site whose runner is a process, and a courier's listener for it in this one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.nodestate import NodeStateFactory

from stillroom.client.courier import runtime_listener
from stillroom.client.site import Site
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import (
    MESSAGE_TYPES,
    ROUND,
    ModelRef,
    Reply,
    Task,
    pack_task,
    read_reply,
)
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise, write_weights

WEIGHTS = {"trunk.w": np.ones((2, 3), np.float32), "head.w": np.ones(2, np.float32)}
RUN, NODE, SECRET = 5, 9, "s" * 64


@dataclass
class Desk:
    """A courier's side of the loopback port, for as long as it lives."""

    state: Any
    store: Any

    def hand_over(self, task: Task) -> None:
        """Put a task where the runner finds it."""
        message = Message(pack_task(task), NODE, MESSAGE_TYPES[ROUND])
        message.metadata.__dict__["_run_id"] = RUN
        message.metadata.__dict__["_message_id"] = name = message.object_id
        self.store.preregister(RUN, get_object_tree(message))
        for part, value in get_all_nested_objects(message).items():
            self.store.put(part, value.deflate())
        if self.state.get_run(RUN) is None:
            run = Run.create_empty(RUN)
            run.fab_hash, run.series_id = self.state.store_fab(Fab("", b"", {})), RUN
            self.state.set_run_series_context(RUN, Context(RUN, NODE, {}, RecordDict(), {}))
            self.state.store_run(run)
        message.content = RecordDict()
        message.metadata.__dict__["_message_id"] = name
        self.state.store_message(message)
        self.state.create_task(
            task_type=TaskType.CLIENT_APP,
            run_id=RUN,
            fab_hash=self.state.store_fab(Fab("", b"", {})),
        )

    def reply(self, seconds: float = 20) -> Reply:
        """What the runner answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self.state.get_messages_legacy(is_reply=True):
                tree = self.store.get_object_tree(message.metadata.message_id)
                whole = pull_and_inflate_object_from_tree(
                    tree, self._pull, lambda _: None, return_type=Message, initial_backoff=0.02
                )
                return read_reply(whole)
            time.sleep(0.02)
        raise TimeoutError

    def _pull(self, name: str) -> bytes:
        end = time.monotonic() + 20
        while not (content := self.store.get(name)):
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.01)
        return bytes(content)


@dataclass
class Household:
    """A site, its tasks, and runners of it.

    Attributes:
        site: As the runner opens it, for looking.
        trace: What its runners did, a line a step.
    """

    site: Site
    site_config: Path
    trace: Path
    port: int
    nursery: subprocess.Popen[str]
    living: list[int] = field(default_factory=list)

    def start(self, kill_at: str = "", *, step_s: float = 0.0) -> int:
        """A runner's process id."""
        order = {
            "site_config": str(self.site_config),
            "runtime_port": self.port,
            "secret": SECRET,
            "kill_at": kill_at,
            "trace": str(self.trace),
            "step_s": step_s,
        }
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps(order) + "\n")
        self.nursery.stdin.flush()
        pid = int(self.nursery.stdout.readline())
        self.living.append(pid)
        return pid

    def ended(self, pid: int) -> int:
        """How a runner ended, once it has: its exit status, or minus the signal that killed it."""
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(f"{pid}\n")
        self.nursery.stdin.flush()
        self.living.remove(pid)
        return int(self.nursery.stdout.readline())

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """A courier's listener, until the courier dies; the next one knows nothing of it."""
        objects = ObjectStoreFactory()
        states = NodeStateFactory(objectstore_factory=objects)
        states.state().set_node_id(NODE)
        settings = SimpleNamespace(runtime_port=self.port, secret=SECRET.encode())
        with runtime_listener(states, settings):  # type: ignore[arg-type]
            yield Desk(states.state(), objects.store())

    def task(self, number: int) -> Task:
        """A round, from the same model each time."""
        sha256 = write_weights(self.site.exchange.prepare().models, WEIGHTS)
        model = ModelRef(sha256, len(serialise(WEIGHTS)))
        return Task(self.site.prepared.digest, "teach", number, {"teach": model})

    def traced(self) -> list[str]:
        """What was done so far."""
        return self.trace.read_text().splitlines() if self.trace.exists() else []


@pytest.fixture(scope="session")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that runners are forked from."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("nursery.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def household(tmp_path: Path, nursery: subprocess.Popen[str]) -> Iterator[Household]:
    """A site with a prepared study; no runner of it outlives the test."""
    study = tmp_path / "study"
    tensors = tuple(
        TensorSpec(name=name, shape=value.shape, dtype="float32", group=name[:-2])
        for name, value in WEIGHTS.items()
    )
    stage = PreparedStage(
        initial_sha256=write_weights(study / "weights", WEIGHTS), manifest=Manifest(tensors=tensors)
    )
    prepared = PreparedStudy(study=STUDY, stages={"teach": stage})
    (study / "study.json").write_text(prepared.model_dump_json())
    (tmp_path / "scans").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    path = tmp_path / "site.toml"
    path.write_text(
        'site = "north"\nserver = "127.0.0.1:9"\ndata = ["scans"]\nstate = "state"\n'
        f'study = "study"\ndevice = "cpu"\nunsigned_trial = true\nruntime_port = {port}\n'
        '[tls]\nca = "ca.pem"\ncertificate = "site.pem"\nprivate_key = "site.key"\n'
    )
    made = Household(Site.open(path), path, tmp_path / "trace", port, nursery)
    yield made
    for pid in list(made.living):
        os.kill(pid, signal.SIGKILL)  # not yet waited for: the id is still its own
        made.ended(pid)


STUDY = Study.parse(
    {
        "study": {"name": "site", "max_update_norm": 1e6},
        "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
        "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
        "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
        "stage": [{"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 9}],
    }
)
