"""What a live boundary run changes inside the processes of its consortium, and what it notes there.

Loaded by ``bench/inject/hooks`` when the file of hooks has an entry ``live``::

    modules  the folder of this file
    out      where notes go: ``cases.jsonl`` (who was given which attempt), ``wire.jsonl`` (every
             request that reached the edge, with the bytes of its head and body)
    study    the prepared study
    replies  {site: {kind: [attempt]}}: what a site's runner answers, one after the other
    requests {site: {round: attempt}}: what the server asks a site in a round of the student

The courier is in none of this: it runs as it is in the field.
"""

import base64
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

Given = dict[str, Any]
KEPT = 1 << 16
"""Longest body of a message that is kept in full; what is longer is no refusal anyhow."""
PUSHES = ("/push-messages", "/push-object")


def changes(who: str, given: Given) -> list[tuple[str, Callable[[ModuleType], None]]]:
    """Module and change for the process ``who``."""
    if who == "runner":
        return [("stillroom.client.runner", functools.partial(_evil_runner, given=given))]
    if who == "app":
        return [("stillroom.server.exchange", functools.partial(_evil_server, given=given))]
    if who == "link":
        fleet = "flwr.superlink.servicer.fleet.fleet_handlers"
        return [
            ("stillroom.server.edge", functools.partial(_count, given=given)),
            (fleet, functools.partial(_damage, given=given)),
        ]
    return []


def note(given: Given, name: str, **line: Any) -> None:
    """Append a line that other processes may append to as well."""
    path = Path(given["out"]) / name
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


def _script(site: str, given: Given) -> Any:
    if given["modules"] not in sys.path:
        sys.path.insert(0, given["modules"])
    from script import Script

    return Script(site, given)


# -- the runner ---------------------------------------------------------------------------------


def _evil_runner(module: ModuleType, *, given: Given) -> None:
    """Answers by the script, pushed object by object, every frame as the attempt wants it."""
    place: dict[str, Any] = {}

    def answer(_app: Any, message: Any, context: Any) -> Any:
        if "script" not in place:
            folder = Path(str(context.node_config["site-config"])).parent
            place["script"] = _script(folder.name, given)
        place["said"] = place["script"].answer(message)
        return place["said"][0].message

    def deliver(client: Any, _reply: Any, context: Any, _stop: Any) -> None:
        for parcel in place["said"]:
            parcel.push(client, context)

    module.answer, module._deliver = answer, deliver


# -- the server's side ----------------------------------------------------------------------------


def _evil_server(module: ModuleType, *, given: Given) -> None:
    """A server app whose questions are changed after its own checks, on their way out."""
    begin = module.GridExchange.__init__

    def init(self: Any, grid: Any, *args: Any, **more: Any) -> None:
        begin(self, grid, *args, **more)
        script = _script("", given)
        self._grid = script.grid(grid, lambda: {n: site for site, n in self._nodes.items()})

    module.GridExchange.__init__ = init


def _damage(module: ModuleType, *, given: Given) -> None:
    """Objects of a site that has a note in ``damaged`` come with a byte more than they have."""
    pull, place = module.pull_object, Path(given["out"]) / "damaged"

    def pulled(request: Any, *args: Any, **more: Any) -> Any:
        response = pull(request, *args, **more)
        content = response.object_content
        if content.startswith(b"ConfigRecord") and (place / str(request.node.node_id)).exists():
            response.object_content = content + b"x"
        return response

    module.pull_object = pulled


def _count(module: ModuleType, *, given: Given) -> None:
    """Every request of a site, as it came out of TLS: bytes of its head and of its body."""
    serve = module.FleetGate.__call__

    async def counted(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await serve(self, scope, receive, send)
        path, peer, began = scope["path"], scope["state"].get("peer"), time.time()
        head = len(scope["raw_path"]) + len(scope["query_string"]) + len(scope["method"]) + 14
        head += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        found, size = bytearray(), 0

        async def heard() -> Any:
            nonlocal size
            message = await receive()
            body = message.get("body", b"")
            size += len(body)
            if path.endswith(PUSHES) and len(found) < KEPT:
                found.extend(body)
            return message

        try:
            await serve(self, scope, heard, send)
        finally:
            site = str(peer.site) if peer is not None else ""
            text = base64.b64encode(bytes(found)).decode() if found else ""
            note(
                given, "wire.jsonl", t=began, site=site, path=path, head=head, body=size, kept=text
            )

    module.FleetGate.__call__ = counted
