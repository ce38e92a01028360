"""How long a process spends on the log: every append, cosignature and look of a witness, timed."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PLACES = {
    "app": ("stillroom.server.log", "Log", ("append_made", "append")),
    "link": ("stillroom.server.log", "Log", ("append_made", "append", "cosigned")),
    "courier": ("stillroom.client.witness", "Witness", ("look", "look_when_idle")),
}
"""Role -> module, class and methods; the outermost of nested calls counts."""
WAITING = "stillroom.client.alongside"
"""Where a courier waits for a look that takes longer than what is done meanwhile."""


def timing(who: str, site: str, folder: Path) -> list[tuple[str, Callable[[ModuleType], None]]]:
    """The modules of a role, and what times their calls into ``folder/<site>-<role>``.

    A line is method, wall and processor seconds of one call; the latter are the calling thread's.
    """
    place, kind, names = PLACES[who]
    folder.mkdir(exist_ok=True)
    into, inside = folder / f"{site or 'server'}-{who}", threading.local()

    def change(module: ModuleType) -> None:
        owner = getattr(module, kind)
        for name in names:
            setattr(owner, name, _timed(getattr(owner, name), into, inside, name))

    def change_waiting(module: ModuleType) -> None:
        module.wait_for = _timed(module.wait_for, into, inside, "wait")

    return [(place, change), *([(WAITING, change_waiting)] if who == "courier" else [])]


def _timed(
    call: Callable[..., Any], into: Path, inside: threading.local, name: str
) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        if getattr(inside, "busy", False):
            return call(*args, **kwargs)
        inside.busy = True
        wall, spent = time.perf_counter(), time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            inside.busy = False
            took, cpu = time.perf_counter() - wall, time.thread_time() - spent
            with into.open("a", encoding="ascii") as stream:
                stream.write(f"{name} {took:.6f} {cpu:.6f}\n")

    return timed
