"""The operator's page, its metrics and its terminal: from files alone, and whatever stands in them."""

import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from stillroom.common.pages.metrics import exposition
from stillroom.server.cli import app
from stillroom.server.page.cost import Wait, waits
from stillroom.server.page.measures import MEASURES, measures
from stillroom.server.page.overview import Overview, look
from stillroom.server.page.run_view import MOST_POINTS, thinned
from stillroom.server.page.troubles import troubles
from stillroom.server.page.view import overview_body, run_body
from stillroom.server.page.watch import screen
from stillroom.server.page.words import REASONS


def fixes(seen: Overview) -> str:
    return " ".join(f"{one.what} {one.fix}" for one in troubles(seen))


def test_sites(coordinator: Any, worlds: SimpleNamespace) -> None:
    """Standing, version, last word, certificate and traffic; the silent and the lapsing are named."""
    seen = look(coordinator.config)
    page = worlds.Page(overview_body(seen))
    text = page.text.replace("\u00a0", " ")
    assert "harbour enrolled 0.1.0 now 24 days 2 kB 3 kB" in text
    assert "summit invited — not yet —" in text
    words = fixes(seen)
    assert "No word from river for up to 1\u00a0h 06\u00a0min" in words
    assert "The certificate of north ends in 5 days" in words
    assert "The server does not answer on this machine." in words
    assert len(page.ids) == len(set(page.ids))


def test_a_run_as_it_happens(coordinator: Any, worlds: SimpleNamespace) -> None:
    """Who has answered in the open round and who is awaited, what was refused, how it learns."""
    with_lock = look(coordinator.config)
    (one,) = with_lock.runs
    text = worlds.Page(overview_body(with_lock)).text.replace("\u00a0", " ")
    assert one.now.state == "starting"
    assert (one.now.answered, one.now.awaited) == (("north",), ("harbour", "river"))
    assert "student, round 2 of 4" in text
    assert "Awaited: harbour and river." in text
    assert "4 of 7" in text
    assert "river, teach, round 2: refused (STR-303: A tensor holds NaN.)" in text
    assert "STR-303 A tensor holds NaN, infinity" in text
    assert "mean Dice" in text


def test_rounds_without_everybody_are_told(coordinator: Any, worlds: SimpleNamespace) -> None:
    """As long as the last committed round lacks somebody, and the run is not over."""
    assert "was closed without" not in fixes(look(coordinator.config))
    late = worlds.round_of(1, {"harbour": 9.0, "north": 9.0, "river": 9.0}, north="late")
    coordinator.journal.write("round-student-0001.json", late)
    assert "student, round 1, was closed without north." in fixes(look(coordinator.config))


def test_what_the_slowest_cost() -> None:
    """Per round the one that others waited for, and by how much; a round of one waits for nobody."""
    rounds = [
        {"sites": {"a": {"seconds": 10.0}, "b": {"seconds": 14.0}, "c": {"seconds": 60.0}}},
        {"sites": {"a": {"seconds": 30.0}, "b": {"seconds": 20.0}}},
        {"sites": {"a": {"seconds": 1000.0}}},
        {"sites": {}},
    ]
    assert waits(rounds) == [Wait("c", 1, 46.0, 96.0), Wait("a", 1, 10.0, 10.0)]


def test_curves_are_thinned_to_what_can_be_seen() -> None:
    """A stage of a thousand rounds is drawn with its last point and no more points than a curve needs."""
    curve = [(n, 1.0 / n) for n in range(1, 1001)]
    drawn = thinned(curve)
    assert len(drawn) <= MOST_POINTS
    assert drawn[-1] == curve[-1]
    assert thinned(curve[:5]) == curve[:5]


def test_measures(coordinator: Any) -> None:
    """Sites, rounds, quorum, refusals, disk: each with its help, none about patients."""
    text = exposition(measures(look(coordinator.config))).decode()
    for measure in MEASURES:
        assert f"# HELP {measure.name.removesuffix('_total')}" in text
    for line in (
        'stillroom_server_round_number{run="trial",stage="teach"} 2.0',
        'stillroom_server_round_asked{run="trial",stage="teach"} 3.0',
        'stillroom_server_round_participants{run="trial",stage="teach"} 2.0',
        'stillroom_server_round_quorum{run="trial"} 2.0',
        'stillroom_server_round_answered{run="trial"} 1.0',
        'stillroom_server_run_state{run="trial",state="starting"} 1.0',
        'stillroom_server_refused_total{reason="tls-plaintext"} 5.0',
        'stillroom_server_answers_refused_total{code="STR-303",run="trial"} 1.0',
        'stillroom_server_site_certificate_seconds{site="north"}',
        "stillroom_server_serving 0.0",
    ):
        assert line in text, line
    assert "train.loss" not in text
    assert "dice" not in text


def test_reading_changes_nothing(coordinator: Any) -> None:
    """Not a byte and not a file below the server's folder, but for SQLite's own."""

    def files() -> dict[Path, tuple[int, int]]:
        found = (p for p in coordinator.folder.rglob("*") if p.is_file() and "db-" not in p.name)
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = files()
    overview_body(look(coordinator.config))
    assert files() == before


def test_a_server_that_has_done_nothing(coordinator: Any, worlds: SimpleNamespace) -> None:
    """No run, no edge, no log: said so, with what to do first."""
    (coordinator.folder / "state" / "runs.db").unlink()
    (coordinator.folder / "state" / "edge" / "edge.json").unlink()
    text = worlds.Page(overview_body(look(coordinator.config))).text
    assert "No run yet. Start one with stillroom-server run start" in text
    assert not (coordinator.folder / "state" / "runs.db").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"round": 1}'])
def test_damaged_records_are_left_out(
    coordinator: Any, worlds: SimpleNamespace, damage: bytes
) -> None:
    """A page is no place to fall over them; the run itself refuses to go on."""
    (coordinator.journal.folder / "round-teach-0002.json").write_bytes(damage)
    (coordinator.folder / "study" / "study.sig").write_bytes(damage)
    (coordinator.folder / "state" / "edge" / "edge.json").write_bytes(damage)
    assert "teach" in worlds.Page(overview_body(look(coordinator.config))).text


def test_every_reason_of_the_edge_has_words() -> None:
    """What is counted is explained, as far as it is known when this is read."""
    from stillroom.server import membership

    known = {cause for _, cause in membership._VERIFY_CAUSES} | {*membership._REASONS.values()}
    assert known <= REASONS.keys()


Text = st.text(max_size=60) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "`<b>`",
        "[red]",
        "[/]",
        "&#60;",
    ]
)


def spoiled(value: Any, word: Any) -> Any:
    """The same structure with every string replaced, but for keys that the code looks for."""
    if isinstance(value, str):
        return value if value in {"admitted", "train", "held_out"} else next(word)
    if isinstance(value, Mapping):
        kept = {"sites", "stages", "rounds", "status", "metrics", "seconds", "role", "name", "of",
                "recipe", "round", "order", "reason", "samples", "evaluation", "train.loss"}  # fmt: skip
        return {k if k in kept else next(word): spoiled(v, word) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(spoiled(item, word) for item in value)
    return value


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.lists(Text, min_size=9, max_size=9))
def test_no_text_becomes_markup(tmp_path: Path, worlds: SimpleNamespace, words: list[str]) -> None:
    """Names of sites, runs and stages, reasons and versions: text on the page and in the terminal."""
    path = tmp_path / "server"
    seen = _MADE.get(path) or _MADE.setdefault(path, look(worlds.coordinator(path).config))
    word = itertools.cycle(words)
    one = seen.runs[0]
    now = replace(
        one.now, study=next(word), stages=next(word), last=next(word), reason=next(word),
        answered=(next(word),), awaited=(next(word),), state=next(word),
    )  # fmt: skip
    run = replace(one.run, name=next(word), reason=next(word))
    bad = replace(one, run=run, now=now, summary=spoiled(one.summary, word))
    evil = replace(
        seen,
        consortium=next(word),
        sites=tuple(
            replace(site, name=next(word), status=next(word), version=next(word))
            for site in seen.sites
        ),
        runs=(bad, replace(bad, now=replace(now, state="failed"))),
        refused={next(word): 1},
    )
    page = worlds.Page(overview_body(evil))
    assert " ".join(evil.consortium.split()) in page.text
    worlds.Page(run_body(evil, bad))
    console = Console(width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.capture() as printed:
        console.print(screen(evil))
    console.file.close()
    assert "Sites" in printed.get()
    exposition(measures(evil))


_MADE: dict[Path, Overview] = {}


# -- commands and HTTP ------------------------------------------------------------------------------


def test_watch_prints_it_once(coordinator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites, the run, who waited for whom and refusals, without a browser."""
    monkeypatch.setenv("COLUMNS", "160")
    config = str(coordinator.folder / "server.toml")
    done = CliRunner().invoke(app, ["watch", "--once", "--config", config])
    assert done.exit_code == 0, done.output
    for words in (
        "Example consortium", "The certificate of north ends in 5 days", "harbour  enrolled",
        "answered north; awaited harbour, river", "Who waited for whom", "tls-plaintext",
    ):  # fmt: skip
        assert words in done.output, words


def test_every_address_and_no_other(operator_server: Any) -> None:
    """The page, a run by its number, metrics; nothing that changes anything."""
    with httpx.Client(base_url=operator_server.url) as client:
        assert "Example consortium" in client.get("/").text
        assert "Learning curves" in client.get("/run/1").text
        assert client.get("/run/99").status_code == 404
        assert client.get("/run/x").status_code == 404
        found = client.get("/metrics")
        assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
        origin = {"origin": operator_server.url.rstrip("/")}
        for path in ("/", "/run/1", "/metrics", "/pause"):
            assert client.post(path, headers=origin).status_code in {404, 405}
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421


def test_a_registry_that_is_gone_is_named(coordinator: Any, worlds: SimpleNamespace) -> None:
    """An expected failure is shown with its code and its fix, not as a traceback."""
    from stillroom.server.page.application import operator_page

    config = coordinator.config
    for path in coordinator.folder.glob("registry.db*"):
        path.unlink()
    with worlds.served(lambda where: operator_page(config, where)) as page:
        answer = httpx.get(page.url)
    assert answer.status_code == 500
    assert "STR-101" in answer.text


def test_the_page_is_quick(coordinator: Any, worlds: SimpleNamespace) -> None:
    """A study of 80 rounds and 40 sites is shown within a second or two of processor time."""
    seconds = {f"site-{n:02d}": 1.0 + n for n in range(40)}
    for number in range(1, 81):
        coordinator.journal.write(
            f"round-student-{number:04d}.json", worlds.round_of(number, seconds)
        )
    state = coordinator.journal.read("state.json")
    state["closed"]["student"] = 80
    coordinator.journal.write("state.json", state)
    look(coordinator.config)
    began = time.process_time()
    page = overview_body(look(coordinator.config))
    assert time.process_time() - began < 5
    assert len(page) < 2_000_000
