"""The log over the edge: its files, letter by letter, and nothing else of the folder or the machine."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.server.log import Log
from stillroom.server.log_api import LogApi

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = Log(tmp_path / "log", tmp_path / "guard", "test/log", KEY)
    log.append([b"{}"] * 300)
    (tmp_path / "log.key").write_text("secret")
    return log.folder


def get(folder: Path, path: str) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(LogApi(folder)(send, path))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    "path", ["checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000"]
)
def test_its_files(folder: Path, path: str) -> None:
    """As they lie on the disk."""
    assert get(folder, path) == (200, (folder / path).read_bytes())


@pytest.mark.parametrize(
    "path",
    [
        "lock", "", ".", "../log.key", "tile/../../log.key", "tile/0/../../../guard", "tile/0/009",
        "checkpoint\n", "checkpoint.tmp", "//etc/passwd", "tile/64/000", "tile/entries/x000/000/",
    ],
)  # fmt: skip
def test_nothing_else(folder: Path, path: str) -> None:
    """Neither the lock beside them nor anything above."""
    assert get(folder, path)[0] == 404
