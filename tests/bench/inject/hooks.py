"""What a bench or a chaos run changes in a process from outside.

The file of hooks (JSON) holds::

    noise   {"log": folder, "seconds": s, "samples": {site: {group: cases}}, "turns": n}: the
            recipe of ``noise`` in place of ``distil`` and ``teach``; n at once
    points  [{"id", "role", "site", "target", "when", "call", "delay_s", "victims"}]: SIGKILL for
            the victims (names as in the folder of pids; this process when left out) before,
            during or after the call-th call of target (``module:qualname``), whoever made the
            calls before: they are counted on disk, over all lives of a process
    clock   {"role", "site", "once", "jump_s", "for_s"}: this process's clock jumps, in its first life,
            when there is something in the folder ``once``, and is set right again ``for_s`` later
    profile [role]: stacks of these processes go into ``profile-<site>-<role>.txt``
    gate    "alternate": couriers have no gate in every other round (``gateless``)
    log     "time": seconds of every call that the log takes go into ``logtimes`` (``logtimes``)
    live    a boundary run's script (``boundary/live_hooks``)
    ports   true: local ports of a courier's transfers, which use http.client, go into
            ``ports/<site>``
    bodies  true: bytes of files handed over at both ends go into ``bodies/<site>``

A kill is noted as ``fired/<id>`` beside the file of hooks before it happens, and happens once.
"""

import asyncio
import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

Change = Callable[[ModuleType], None]


def role() -> tuple[str, str]:
    """Which process this is (``app``, ``link``, ``exec``, ``courier``, ``runner``), of which site."""
    words = sys.orig_argv
    if any(word.endswith("flwr-serverapp") for word in words):
        return "app", ""
    for word, name in (("serve", "link"), ("execute", "exec")):
        if word in words and "stillroom.server.cli" in words:
            return name, ""
    for word in ("courier", "runner"):
        if word in words and "stillroom.client.cli" in words:
            return word, Path(words[words.index("--config") + 1]).parent.name
    return "", ""


class Importer(importlib.abc.MetaPathFinder):
    """Changes a module right after its code has run, before anybody takes a name from it."""

    def __init__(self, changes: dict[str, list[Change]]) -> None:
        self.changes = changes
        self.busy: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader around its loader."""
        if name not in self.changes or name in self.busy:
            return None
        self.busy.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy.discard(name)
        if spec is not None and spec.loader is not None:
            run, changes = spec.loader.exec_module, self.changes[name]

            def exec_module(module: ModuleType) -> None:
                run(module)
                for change in changes:
                    change(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(file: str) -> None:
    """Read the file of hooks and arrange for what concerns this process."""
    hooks = json.loads(Path(file).read_text("utf-8"))
    who, site = role()
    if not who:
        return
    changes: dict[str, list[Change]] = {}
    if who == "runner" and "noise" in hooks:
        place = "stillroom.client.recipes.registry"
        changes[place] = [functools.partial(_replace_recipes, settings=hooks["noise"], site=site)]
        changes["stillroom.client.answers"] = [_give_turns_back]
    if "live" in hooks:
        sys.path.append(hooks["live"]["modules"])
        import live_hooks

        for place, change in live_hooks.changes(who, hooks["live"]):
            changes.setdefault(place, []).append(change)
    if who == "courier" and hooks.get("gate") == "alternate":
        changes["stillroom.client.gate"] = [_open_the_gate]
    if who in {"app", "link", "courier"} and hooks.get("log") == "time":
        import logtimes

        for place, change in logtimes.timing(who, site, Path(file).with_name("logtimes")):
            changes.setdefault(place, []).append(change)
    for point in hooks.get("points", ()):
        if point["role"] == who and point.get("site", "") in {"", site}:
            module, name = point["target"].split(":")
            change = functools.partial(_wrap, name=name, point=point, folder=Path(file).parent)
            changes.setdefault(module, []).append(change)
    clock, once = hooks.get("clock"), Path(file).with_name("jumped")
    if clock and clock["role"] == who and clock.get("site", "") in {"", site} and not once.exists():
        once.touch()
        changes.setdefault("flwr.supercore.date", []).append(_jumping(clock))
    if who == "courier" and hooks.get("ports"):
        note = functools.partial(_note_ports, into=Path(file).parent / "ports" / site)
        changes.setdefault("http.client", []).append(note)
    if who in {"courier", "link"} and hooks.get("bodies"):
        import bodies

        place, change = bodies.counting(who, site, Path(file).parent / "bodies")
        changes.setdefault(place, []).append(change)
    if who in hooks.get("profile", ()):
        from stacks import Profiler

        Profiler(Path(file).parent / f"profile-{site or 'server'}-{who}.txt")
    if changes:
        sys.meta_path.insert(0, Importer(changes))
    if os.environ.get("STILLROOM_PIDS"):
        own = Path(os.environ["STILLROOM_PIDS"]) / (f"{site}-{who}" if site else who)
        own.write_text(str(os.getpid()), "ascii")


def _open_the_gate(module: ModuleType) -> None:
    from gateless import open_the_gate

    open_the_gate(module)


def _note_ports(module: ModuleType, *, into: Path) -> None:
    """Have every connection of ``http.client`` write down its own port."""
    connect = module.HTTPSConnection.connect

    def noted(self: Any) -> None:
        connect(self)
        with into.open("a", encoding="ascii") as stream:
            stream.write(f"{self.sock.getsockname()[1]}\n")

    module.HTTPSConnection.connect = noted


def _replace_recipes(module: ModuleType, *, settings: dict[str, Any], site: str) -> None:
    from recipe import Noise

    recipe = Noise(settings, site)
    for name in ("distil", "teach"):
        module.RECIPES[name] = recipe


def _give_turns_back(module: ModuleType) -> None:
    """End a runner's turn once its answer is kept."""
    keep = module.Answers.keep

    def kept(*args: Any, **kwargs: Any) -> Any:
        try:
            return keep(*args, **kwargs)
        finally:
            from stillroom.client.recipes.registry import RECIPES

            RECIPES["distil"].give_turn_back()  # type: ignore[attr-defined]

    module.Answers.keep = kept


def _wrap(module: ModuleType, *, name: str, point: dict[str, Any], folder: Path) -> None:
    """Put a killer around ``name`` (a function, or ``Class.method``) of a module."""
    *owners, last = name.split(".")
    owner: Any = functools.reduce(getattr, owners, module)
    found = inspect.getattr_static(owner, last)
    static = isinstance(found, staticmethod | classmethod)
    original = found.__func__ if static else found
    killer = _Killer(point, folder)
    wrapped = killer.around_async if asyncio.iscoroutinefunction(original) else killer.around
    changed = functools.wraps(original)(wrapped(original))
    setattr(owner, last, type(found)(changed) if static else changed)


class _Killer:
    """Counts the calls of one function and kills this process at one of them."""

    def __init__(self, point: dict[str, Any], folder: Path) -> None:
        self.point = point
        self.mark = folder / "fired" / point["id"]
        self.counter = folder / "calls" / point["id"]
        self.inside = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that dies."""

        def call(*args: Any, **kwargs: Any) -> Any:
            hit = self._enter()
            try:
                return function(*args, **kwargs)
            finally:
                self._leave(hit=hit)

        return call

    def around_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A coroutine function that dies."""

        async def call(*args: Any, **kwargs: Any) -> Any:
            hit = self._enter()
            try:
                return await function(*args, **kwargs)
            finally:
                self._leave(hit=hit)

        return call

    def _enter(self) -> bool:
        counter = os.open(self.counter, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        os.write(counter, b".")
        hit = os.lseek(counter, 0, os.SEEK_CUR) == self.point["call"]
        os.close(counter)
        if not hit:
            return False
        self.inside = True
        if self.point["when"] == "before":
            self._kill()
        if self.point["when"] == "during":
            threading.Timer(self.point.get("delay_s", 0.0), self._kill).start()
        return True

    def _leave(self, *, hit: bool) -> None:
        if hit:
            self.inside = False
            if self.point["when"] == "after":
                self._kill()

    def _kill(self) -> None:
        try:
            mark = os.open(self.mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return
        note = {"t": time.time(), "inside": self.inside, **self.point}
        os.write(mark, json.dumps(note).encode())
        os.close(mark)
        folder = Path(os.environ["STILLROOM_PIDS"])
        pids = [int((folder / name).read_text("ascii")) for name in self.point.get("victims", ())]
        # Ourselves last: whoever comes after that is not killed any more.
        for pid in sorted(pids or [os.getpid()], key=lambda pid: pid == os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _jumping(clock: dict[str, Any]) -> Change:
    """A change of Flower's clock, and of ``time.time`` at once: it jumps, and is set right."""
    real, once = time.time, Path(clock["once"])
    looked, since = float("-inf"), float("inf")

    def offset() -> float:
        nonlocal looked, since
        now = time.monotonic()
        if now - looked > 0.1 and since > now:
            looked = now
            since = now if any(once.iterdir()) else since
        return clock["jump_s"] if since <= now < since + clock["for_s"] else 0.0

    time.time = lambda: real() + offset()

    def change(module: ModuleType) -> None:
        from datetime import timedelta

        now = module.now
        module.now = lambda: now() + timedelta(seconds=offset())

    return change
