"""The folder between courier and runner: names, links, and who holds the lock."""

import os
import signal
import time
from pathlib import Path

import pytest

from stillroom.client.exchange import ExchangeFolder, RunnerLock, runner_present
from stillroom.common.errors import ContractError, ResourceError

NAME, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def exchange(tmp_path: Path) -> ExchangeFolder:
    """An empty one."""
    return ExchangeFolder(tmp_path / "exchange").prepare()


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_names_are_digests(exchange: ExchangeFolder, name: str) -> None:
    """Nothing that a peer says becomes part of a path unless it is a SHA-256."""
    for path in (exchange.model, exchange.update):
        with pytest.raises(ValueError, match="SHA-256"):
            path(name)
    with pytest.raises(ValueError, match="SHA-256"):
        exchange.open_update(name)


def test_an_update_is_a_plain_file(exchange: ExchangeFolder, tmp_path: Path) -> None:
    """A link, a folder, a pipe or nothing at all in its place is STR-311, and nobody waits."""
    path, secret = exchange.update(NAME), tmp_path / "secret"
    secret.write_bytes(b"key")

    def refused() -> None:
        with pytest.raises(ContractError) as caught:
            exchange.open_update(NAME)
        assert caught.value.code == "STR-311"

    refused()
    path.symlink_to(secret)
    refused()
    path.unlink()
    path.mkdir()
    refused()
    path.rmdir()
    os.mkfifo(path)
    refused()
    path.unlink()
    path.write_bytes(b"weights")
    with exchange.open_update(NAME) as stream:
        assert stream.read() == b"weights"
    exchange.updates.rename(tmp_path / "updates")
    exchange.updates.symlink_to(tmp_path / "updates")
    refused()


def test_what_is_kept(exchange: ExchangeFolder) -> None:
    """Only what is named, with what an interrupted fetch of it has brought."""
    exchange.model(NAME).touch()
    exchange.model(OTHER).touch()
    (exchange.models / f"{NAME}.incoming.part").touch()
    (exchange.models / f"{OTHER}.delta").touch()
    exchange.update(OTHER).touch()
    exchange.keep_models({NAME})
    exchange.keep_updates(())

    found = {path.name for path in exchange.models.iterdir()}
    assert found == {f"{NAME}.safetensors", f"{NAME}.incoming.part"}
    assert list(exchange.updates.iterdir()) == []


def test_the_runner_is_there_while_it_lives(exchange: ExchangeFolder) -> None:
    """Its id is another one in each life; a second runner is told that there is a first."""
    assert runner_present(exchange) is None
    with RunnerLock(exchange) as lock:
        assert runner_present(exchange) == lock.boot_id
        with pytest.raises(ResourceError) as caught:
            RunnerLock(exchange)
        assert caught.value.code == "STR-513"
    assert runner_present(exchange) is None
    with RunnerLock(exchange) as again:
        assert again.boot_id != lock.boot_id


def test_a_killed_runner_is_gone_at_once(exchange: ExchangeFolder) -> None:
    """The operating system lets go of the lock; the id it wrote is still in the file."""
    child = os.fork()
    if child == 0:
        RunnerLock(exchange)
        signal.pause()
        os._exit(0)
    while not runner_present(exchange):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert runner_present(exchange) is None


def test_looking_does_not_keep_a_runner_out(exchange: ExchangeFolder) -> None:
    """A courier that looks all the time never makes a starting runner fail."""
    child = os.fork()
    if child == 0:
        while True:
            runner_present(exchange)
    try:
        for _ in range(20):
            RunnerLock(exchange).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
