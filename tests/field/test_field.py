"""``make field`` itself, without a container: how it ends early, and that its count can fail."""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
DUE = {"teach": 2, "label": 1}
SITES = ["harbour", "north", "river"]


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads a module that lies here; its neighbours' plain names are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(HERE))
    for path in HERE.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
        monkeypatch.setitem(sys.modules, path.stem, ModuleType(path.stem))
        del sys.modules[path.stem]

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"field_{name}", HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("keep", [False, True], ids=["from nothing", "kept"])
def test_ctrl_c_is_one_line_and_130(
    keep: bool,
    field: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Everything is removed first, whatever is pressed meanwhile; no page is written."""
    run = field("run")
    done: list[str] = []

    def play(_scratch: Path, stack: Any, _checks: Any) -> None:
        def remove() -> None:
            os.kill(os.getpid(), signal.SIGINT)  # pressed once more, out of impatience
            done.append("removed")

        stack.callback(remove)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run, "play", play)
    monkeypatch.setattr(run, "clear", lambda _: done.append("cleared"))
    monkeypatch.setattr(run.engine, "missing", lambda: None)
    monkeypatch.setattr(run.page, "write", lambda *_: done.append("page"))
    scratch = tmp_path / "scratch"
    words = ["run.py", "--scratch", str(scratch), *(["--keep"] if keep else [])]
    monkeypatch.setattr(sys, "argv", words)
    # Started in the background of a shell, this process would not hear of Ctrl-C at all.
    before = {
        signal.SIGTERM: signal.getsignal(signal.SIGTERM),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        status = run.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert status == 130
    assert done == (["removed"] if keep else ["removed", "cleared"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("field: Ctrl-C after 0 checks; removed all")
    assert line.endswith("no page written")


def closed(stage: str, number: int, sites: list[str]) -> dict[str, Any]:
    """A run's event."""
    return {"event": "round.closed", "stage": stage, "round": number, "admitted": sites}


def good() -> list[dict[str, Any]]:
    """What a run that went well says."""
    rounds = [closed("teach", 1, SITES), closed("teach", 2, SITES[::-1]), closed("label", 1, SITES)]
    return [{"event": "run.opened"}, *rounds, {"event": "run.ended", "stage": "label"}]


BAD = {
    "a round is missing": (good()[:2] + good()[3:], ({"teach/2": 0}, {})),
    "a round was closed twice": ([*good(), good()[1]], ({"teach/1": 2}, {})),
    "a round that was not due": ([*good(), closed("label", 2, SITES)], ({"label/2": 1}, {})),
    "a site is missing": (
        [*good()[:3], closed("label", 1, SITES[:2])],
        ({}, {"label/1": SITES[:2]}),
    ),
    "a site was counted twice": (
        [*good()[:3], closed("label", 1, [*SITES, "north"])],
        ({}, {"label/1": [*SITES, "north"]}),
    ),
    "a site was counted in another's place": (
        [*good()[:3], closed("label", 1, ["north", "north", "river"])],
        ({}, {"label/1": ["north", "north", "river"]}),
    ),
    "a foreign site": (
        [*good()[:3], closed("label", 1, [*SITES, "stranger"])],
        ({}, {"label/1": [*SITES, "stranger"]}),
    ),
    "nothing was counted": ([], ({"label/1": 0, "teach/1": 0, "teach/2": 0}, {})),
}


def test_good_counting_holds(field: Callable[[str], ModuleType]) -> None:
    """In whichever order rounds and hospitals come."""
    assert field("counting").miscounted(good(), DUE, SITES) == ({}, {})


@pytest.mark.parametrize("what", BAD)
def test_bad_counting_is_seen(what: str, field: Callable[[str], ModuleType]) -> None:
    """A check that cannot fail proves nothing."""
    events, wrong = BAD[what]

    assert field("counting").miscounted(events, DUE, SITES) == wrong
