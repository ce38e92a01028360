"""The site's page: what it says of a hospital in every condition, and what it does not believe."""

import base64
import hashlib
import itertools
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillroom.client import pausing
from stillroom.client.ledger import Entry
from stillroom.client.page.checks import checks, verdict
from stillroom.client.page.departures import Departing
from stillroom.client.page.measures import MEASURES, measures
from stillroom.client.page.overview import SiteOverview, SiteWatch
from stillroom.client.page.view import site_body
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.pages.metrics import exposition


def look(hospital: Any) -> SiteOverview:
    return SiteWatch(hospital.config).look()


def test_a_site_that_works(hospital: Any, worlds: SimpleNamespace) -> None:
    """Connected, its runner there, its papers in order: what it does now, and nothing to do."""
    seen = look(hospital)
    assert (verdict(seen).state, verdict(seen).title) == ("working", "Working")
    assert [check.name for check in checks(seen) if not check.holds] == []
    page = worlds.Page(site_body(seen, "token"))
    assert "Training: stage student, round 3" in page.text
    assert "vessels : outlines of AO" in page.text
    assert "10 scans here with vessels" in page.text
    assert "consent given, until" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_what_has_left(hospital: Any, worlds: SimpleNamespace) -> None:
    """Per answer tensors, bytes, encoding, digest and numbers; a file that was asked for twice, once."""
    seen = look(hospital)
    assert (seen.left.files, seen.left.bytes, seen.left.messages) == (2, 2 * 1_142_472, 4)
    text = worlds.Page(site_body(seen, "token")).text
    for words in (
        "teach, round 2", "1.14 MB", "bf16-delta", "0000 0000 0000 0000", "allowed, given 2 times",
        "train.loss 0.5", "cases of g 7", "inventory.cases 22", "receipt awaited",
    ):  # fmt: skip
        assert words in text.replace("\u00a0", " "), words


def test_what_was_refused(hospital: Any, worlds: SimpleNamespace) -> None:
    """Every code with its meaning."""
    text = worlds.Page(site_body(look(hospital), "token")).text
    assert "STR-303 A tensor holds NaN, infinity" in text


def stop_the_courier(hospital: Any) -> None:
    path = hospital.state / "pulse.json"
    old = json.loads(path.read_text()) | {"written_at": "2026-01-01T00:00:00Z"}
    path.write_text(json.dumps(old))


def break_the_log(hospital: Any) -> None:
    (hospital.state / "witness").mkdir()
    (hospital.state / "witness" / "stopped").write_text("It shows fewer entries than before.\n")


def change_the_ledger(hospital: Any) -> None:
    path = hospital.state / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"bytes":1142472', b'"bytes":1142471', 1))


def withdraw(hospital: Any) -> None:
    for path in (hospital.folder / "exchange" / "consents").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "state", "name", "words"),
    [
        (stop_the_courier, "stopped", "Courier", "not running"),
        (break_the_log, "stopped", "Server's log", "fewer entries"),
        (change_the_ledger, "stopped", "Ledger", "was changed, removed or put in later"),
        (withdraw, "attention", "Consent", "no consent given"),
        (lambda h: (h.folder / "study" / "study.sig").unlink(), "attention", "Study", "signed"),
        (lambda h: (h.folder / "site.pem").unlink(), "attention", "Certificate", "cannot be read"),
        (lambda h: (h.state / "pulse.json").unlink(), "stopped", "Runner", "not seen yet"),
        (lambda h: pausing.pause(h.state, "scanner moves"), "paused", "", "scanner moves"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(
    hospital: Any, worlds: SimpleNamespace, harm: Any, state: str, name: str, words: str
) -> None:
    """The verdict first, then the one thing, then what to do about it."""
    harm(hospital)
    seen = look(hospital)
    assert verdict(seen).state == state
    if name:
        (found,) = [check for check in checks(seen) if check.name == name]
        assert not found.holds
        assert found.fix
    assert words in worlds.Page(site_body(seen, "token")).text


def test_the_certificate_is_told_in_time(hospital: Any) -> None:
    """Seven days before its end, and after it."""
    seen = look(hospital)
    assert seen.certificate_end is not None
    for left, words in ((timedelta(days=6), "6 days left"), (timedelta(seconds=-1), "expired")):
        late = replace(seen, at=seen.certificate_end - left)
        (found,) = [check for check in checks(late) if check.name == "Certificate"]
        assert (found.holds, found.words) == (False, words)


def test_the_ledger_is_followed_and_not_read_anew(hospital: Any) -> None:
    """What was checked is not checked again; another file in its place is."""
    path = hospital.state / "ledger.jsonl"
    departing = Departing(path)
    first = departing.look()
    assert first.checked.lines == 6
    hospital.enter(hospital.sent("student", 7, bytes=5))
    second = departing.look()
    assert (second.checked.lines, second.bytes) == (7, first.bytes + 5)
    with path.open("ab") as stream:
        stream.write(b'{"torn')
    assert departing.look() == second
    lines = path.read_bytes().splitlines(keepends=True)
    fresh = path.with_name("other")
    fresh.write_bytes(b"".join(lines[:3]))
    fresh.replace(path)
    assert departing.look().checked.lines == 3
    path.unlink()
    assert departing.look().checked.lines == 0


def test_a_damaged_ledger_is_looked_at_again(hospital: Any) -> None:
    """Damage is told, is counted up to there, and is gone when the file is restored."""
    path = hospital.state / "ledger.jsonl"
    good = path.read_bytes()
    departing = Departing(path)
    change_the_ledger(hospital)
    found = departing.look()
    assert isinstance(found.damage, TrustError)
    assert found.checked.lines == 3
    path.write_bytes(good)
    assert departing.look().damage is None


def test_measures_hold_no_count_of_patients(hospital: Any) -> None:
    """Every measure has its help; none says how many scans there are or how well something was found."""
    text = exposition(measures(look(hospital))).decode()
    for measure in MEASURES:
        assert f"# HELP {measure.name.removesuffix('_total')}" in text
        assert f"# TYPE {measure.name.removesuffix('_total')}" in text
    for line in (
        "stillroom_client_connected 1.0", "stillroom_client_runner_up 1.0",
        "stillroom_client_paused 0.0", 'stillroom_client_refused_total{code="STR-303"} 1.0',
        'stillroom_client_sent_bytes_total{stage="teach"} 2.284944e+06',
        "stillroom_client_ledger_entries 6.0",
    ):  # fmt: skip
        assert line in text, line
    assert "22" not in [line.rsplit(" ", 1)[1] for line in text.splitlines()]
    assert "inventory" not in text
    assert "train" not in text


Text = st.text(max_size=60) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "`<b>`", "&lt;", "]]>", "<!--"]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.lists(Text, min_size=8, max_size=8))
def test_no_text_becomes_markup(tmp_path: Path, worlds: SimpleNamespace, words: list[str]) -> None:
    """Names, reasons, stages, numbers and codes from anybody are shown as what they are: text."""
    seen = _seen(tmp_path, worlds)
    word = itertools.cycle(words)
    lines = tuple(
        line.model_copy(
            update={
                "stage": next(word), "message": next(word), "encoding": next(word),
                "metrics": {next(word): 1.0}, "samples": {next(word): 1}, "code": next(word),
                "decision": next(word), "study": next(word), "content": next(word),
            }
        )
        for line in seen.left.newest
    )  # fmt: skip
    left = replace(
        seen.left, newest=lines, refused={next(word): 1},
        stages={(next(word), next(word)): next(iter(seen.left.stages.values()))},
        damage=ContractError(next(word), fix=next(word)),
    )  # fmt: skip
    assert seen.pulse is not None
    assert seen.pulse.task is not None
    task = seen.pulse.task.model_copy(update={"message": next(word), "stage": next(word)})
    evil = replace(
        seen, site=next(word), server=next(word), consortium=next(word), left=left,
        witness=next(word), trouble=ContractError(next(word), fix=next(word)),
        pause=pausing.Pause(seen.at, next(word)), pulse=seen.pulse.model_copy(update={"task": task}),
    )  # fmt: skip
    for one in (evil, replace(evil, pause=None, witness=None, trouble=None)):
        page = worlds.Page(site_body(one, next(word)))
        assert " ".join(evil.server.split()) in page.text or "`" in evil.server


def _seen(folder: Path, worlds: SimpleNamespace) -> SiteOverview:
    """Made once for all examples."""
    path = folder / "hospital"
    made = _MADE.get(path) or look(worlds.hospital(path))
    return _MADE.setdefault(path, made)


_MADE: dict[Path, SiteOverview] = {}


# -- over HTTP ------------------------------------------------------------------------------------


def token_of(page: str) -> str:
    return page.partition('name="token" value="')[2].partition('"')[0]


def test_pausing_by_the_form(site_server: Any, hospital: Any) -> None:
    """The button pauses with its reason, and then resumes; a reload repeats nothing."""
    origin = {"origin": site_server.url.rstrip("/"), "sec-fetch-site": "same-origin"}
    with httpx.Client(base_url=site_server.url) as client:
        token = token_of(client.get("/").text)
        asked = {"token": token, "why": f"upgrade  of the\nscanner {'x' * 300}"}
        done = client.post("/pause", data=asked, headers=origin)
        assert (done.status_code, done.headers["location"]) == (303, "/")
        found = pausing.standing(hospital.state)
        assert found is not None
        assert found.why.startswith("upgrade of the scanner x")
        assert len(found.why) == 200
        assert "Resume" in client.get("/").text
        assert client.post("/resume", data={"token": token}, headers=origin).status_code == 303
        assert pausing.standing(hospital.state) is None


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, None, 403),
        ({"origin": "http://evil.example"}, None, 403),
        ({"origin": "null"}, None, 403),
        ({"origin": "HERE", "sec-fetch-site": "cross-site"}, None, 403),
        ({"origin": "HERE"}, "wrong", 403),
        ({"origin": "HERE"}, "", 403),
        ({"origin": "http://evil.example", "host": "evil.example"}, None, 421),
        ({"host": "localhost.evil.example"}, None, 421),
        ({"host": "evil@localhost"}, None, 421),
        ({"host": ""}, None, 421),
    ],
)
def test_another_web_site_cannot_pause(
    site_server: Any, hospital: Any, headers: dict[str, str], token: str | None, status: int
) -> None:
    """Neither a form elsewhere, nor a name that was made to point here, nor a guessed token."""
    given = {k: v.replace("HERE", site_server.url.rstrip("/")) for k, v in headers.items()}
    with httpx.Client(base_url=site_server.url) as client:
        mine = token_of(client.get("/").text) if token is None else token
        done = client.post("/pause", data={"token": mine}, headers=given)
    assert done.status_code == status
    assert pausing.standing(hospital.state) is None


def test_other_methods_and_long_forms(site_server: Any, hospital: Any) -> None:
    """What is no form of ours changes nothing, however long."""
    origin = {"origin": site_server.url.rstrip("/")}
    with httpx.Client(base_url=site_server.url) as client:
        token = token_of(client.get("/").text)
        assert client.get("/pause").status_code == 405
        assert client.delete("/", headers=origin).status_code == 405
        long = {"token": token, "why": "x" * 5000}
        assert client.post("/pause", data=long, headers=origin).status_code == 403
        assert client.post("/pause", content=b"\xff", headers=origin).status_code == 403
        assert client.get("/../site.key").status_code == 404
    assert pausing.standing(hospital.state) is None


def test_headers_forbid_everything(site_server: Any) -> None:
    """No script, no frame, nothing from elsewhere, nothing kept; refusals and errors too."""
    with httpx.Client(base_url=site_server.url) as client:
        for path, headers in (("/", {}), ("/none", {}), ("/", {"host": "evil.example"})):
            answer = client.get(path, headers=headers)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'")
            assert "script" not in policy
            assert "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-frame-options"] == "DENY"
        assert client.get("/").headers["refresh"] == "15"
        assert "refresh" not in client.get("/?still").headers


def test_a_password_is_asked_for(hospital: Any, worlds: SimpleNamespace, tmp_path: Path) -> None:
    """By every address, metrics too; a wrong one costs a second."""
    from stillroom.client.page.application import site_page

    path = tmp_path / "page.password"
    path.write_text(hashlib.sha256(b"x").hexdigest() + "\nrest\n")
    path.chmod(0o600)
    with worlds.served(lambda where: site_page(hospital.config, where), password_file=path) as page:
        good = httpx.BasicAuth("anybody", path.read_text().split()[0])
        with httpx.Client(base_url=page.url) as client:
            for address in ("/", "/metrics", "/style.css"):
                assert client.get(address).status_code == 401
                assert client.get(address, auth=good).status_code == 200
            bad = {"authorization": f"Basic {base64.b64encode(b'a:b').decode()}"}
            assert client.get("/", headers=bad).status_code == 401
            assert client.get("/", headers={"authorization": b"Basic \xe9"}).status_code == 401


def test_a_refused_line_has_a_known_code(hospital: Any) -> None:
    """What the gate refuses is counted under its code, however often."""
    hospital.enter(*[Entry(kind="refused", decision="refused", code="STR-300")] * 3)
    assert look(hospital).left.refused == {"STR-303": 1, "STR-300": 3}
