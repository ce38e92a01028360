"""The line between courier and runner: a socket in a folder, and nothing on any network."""

import os
import socket
import threading
from pathlib import Path

import httpx
import pytest
import uvicorn
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from stillroom.client.runtime_client import SocketRuntimeClient
from stillroom.client.runtime_socket import LONGEST, bound_socket
from stillroom.common.errors import ResourceError

ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


def long(folder: Path) -> Path:
    """A path that no socket can have as its name."""
    while len(os.fsencode(folder)) < 2 * LONGEST:
        folder = folder / "a-folder-of-the-hospital"
    folder.mkdir(parents=True)
    return folder / "runtime.sock"


def ask(path: Path, secret: bytes) -> object:
    """The runner's question for work."""
    client = SocketRuntimeClient(
        path,
        [
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=ACQUIRE),
        ],
    )
    try:
        return client.AcquireTask(AcquireTaskRequest())
    finally:
        client.close()


# httpcore leaves a socket that could not be connected to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("depth", ["short", "long"])
def test_flowers_own_listener_is_reached(
    tmp_path: Path, depth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the secret there is an answer, without it a refusal; proxies are not asked."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    path = tmp_path / "s" if depth == "short" else long(tmp_path)
    states = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    states.state().set_node_id(7)
    app = create_app(state_factory=states, superexec_auth_secret=b"secret")
    with bound_socket(path) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            for _ in range(200):
                if server.started:
                    break
                threading.Event().wait(0.02)
            assert not ask(path, b"secret").HasField("task")  # type: ignore[attr-defined]
            with pytest.raises(httpx.HTTPStatusError):
                ask(path, b"another")
        finally:
            server.should_exit = True
            thread.join(5)
    assert not path.exists()
    with pytest.raises(httpx.ConnectError):
        ask(path, b"secret")


def test_what_a_dead_courier_left_is_no_hindrance(tmp_path: Path) -> None:
    """The name is taken over, whatever lies there; the next runner finds the new one."""
    path = tmp_path / "runtime.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with bound_socket(path) as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


@pytest.mark.parametrize("mode", [0o700, 0o770])
def test_as_open_as_its_folder(tmp_path: Path, mode: int) -> None:
    """Two accounts share it through the folder's group, or nobody else can connect."""
    tmp_path.chmod(mode)
    with bound_socket(tmp_path / "s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == mode & 0o666


def test_a_folder_that_cannot_hold_it(tmp_path: Path) -> None:
    """STR-501, and what to look at."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as caught, bound_socket(tmp_path / "file" / "s"):
        pass
    assert caught.value.code == "STR-501"
    assert "exchange" in caught.value.fix
