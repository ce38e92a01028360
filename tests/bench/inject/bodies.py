"""Counts the bytes of files of weights where they are handed over, without what carries them.

A line ``kind bytes`` per piece in ``bodies/<site>``: ``up`` a courier has handed to its connection,
``up-here`` has come to the server, ``down`` the server has handed to its connection, ``down-here``
has come to the courier. What a broken line lost is in ``up`` and ``down``.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

Note = Callable[[str, str, int], None]


def counting(role: str, site: str, folder: Path) -> tuple[str, Callable[[ModuleType], None]]:
    """The module to change in a ``courier`` or the ``link``, and the change."""
    note = note_into(folder)
    if role == "courier":
        return "stillroom.client.cargo", partial(of_courier, note=note, site=site)
    return "stillroom.server.depot_api", partial(of_server, note=note)


def note_into(folder: Path) -> Note:
    """What writes a line for (site, kind, bytes)."""

    def note(site: str, kind: str, count: int) -> None:
        descriptor = os.open(folder / site, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, f"{kind} {count}\n".encode("ascii"))
        os.close(descriptor)

    return note


def of_courier(module: ModuleType, *, note: Note, site: str) -> None:
    """Change ``stillroom.client.cargo``."""
    pieces, add = module.Outgoing.pieces, module.Incoming.add

    def counted(self: Any, start: int, view: memoryview) -> Iterator[memoryview]:
        for piece in pieces(self, start, view):
            note(site, "up", len(piece))
            yield piece

    def added(self: Any, piece: memoryview) -> None:
        note(site, "down-here", len(piece))
        add(self, piece)

    module.Outgoing.pieces, module.Incoming.add = counted, added


def of_server(module: ModuleType, *, note: Note) -> None:
    """Change ``stillroom.server.depot_api``."""
    call = module.DepotApi.__call__

    async def counted(
        self: Any, scope: Any, receive: Any, send: Any, *, site: str, path: str
    ) -> None:
        said = {"status": 0}

        async def received() -> Any:
            message = await receive()
            if scope["method"] == "PUT" and message.get("body"):
                note(site, "up-here", len(message["body"]))
            return message

        async def sent(message: Any) -> None:
            said.update({"status": message["status"]} if "status" in message else {})
            if said["status"] in {200, 206} and path.startswith("blob/") and message.get("body"):
                note(site, "down", len(message["body"]))
            await send(message)

        await call(self, scope, received, sent, site=site, path=path)

    module.DepotApi.__call__ = counted
