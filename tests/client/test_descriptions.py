"""A site follows the consortium's description from one to the next, and nowhere else."""

import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tomli_w

from stillroom.client import descriptions
from stillroom.client.agreement import Agreement
from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, give_consent
from stillroom.client.descriptions import Descriptions
from stillroom.client.pinning import pinned
from stillroom.common.consortium import follow, make_consortium, read_consortium
from stillroom.common.enrolment import DescriptionQuestion
from stillroom.common.errors import StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.pki.files import write_signing_key
from stillroom.common.pki.issue import make_ca
from stillroom.common.signed_study import sign_study
from stillroom.common.signing import new_signing_key
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights
from stillroom.server.descriptions import description, keep

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CA, CA_KEY = make_ca("test", 3650, NOW)
ADA, BOB, EVE = (new_signing_key() for _ in range(3))


def made(
    people: dict[str, Any], signer: Any, seconds: int, ca: Any = CA, key: Any = CA_KEY
) -> bytes:
    """A description issued ``seconds`` after the first."""
    operators = {name: private.public_key() for name, private in people.items()}
    return make_consortium("test", ca, key, operators, signer, NOW + timedelta(seconds=seconds))


FIRST = made({"ada": ADA}, ADA, 0)
SECOND = made({"ada": ADA, "bob": BOB}, ADA, 10)
THIRD = made({"bob": BOB}, BOB, 20)
OTHER_CA, OTHER_KEY = make_ca("test", 3650, NOW)

REFUSED = {
    "the one it has": (FIRST, "STR-214"),
    "an older one": (made({"ada": ADA}, ADA, -10), "STR-214"),
    "signed by a stranger, certified by the stolen CA": (made({"eve": EVE}, EVE, 10), "STR-214"),
    "a step left out": (THIRD, "STR-214"),
    "another CA": (made({"ada": ADA}, ADA, 10, OTHER_CA, OTHER_KEY), "STR-212"),
    "a changed byte": (SECOND.replace(b'"bob"', b'"eve"'), "STR-207"),
    "no description": (b"{}", "STR-207"),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_what_does_not_follow(raw: tuple[bytes, str]) -> None:
    """Same CA, later, signed by somebody known: each alone is not enough."""
    with pytest.raises(StillroomError) as caught:
        follow(read_consortium(FIRST), raw[0])
    assert caught.value.code == raw[1]


def test_step_by_step() -> None:
    """Two operators came and went: every step is signed by somebody the step before knows."""
    second = follow(read_consortium(FIRST), SECOND)
    third = follow(second, THIRD)
    assert [entry.name for entry in third.operators.values()] == ["bob"]
    with pytest.raises(StillroomError):
        follow(third, made({"ada": ADA}, ADA, 30))  # who left does not come back by herself


@dataclass
class Server:
    """The server's handler behind httpx, without a network."""

    path: Path
    asked: int = 0
    lie: bytes | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """One answer."""
        self.asked += 1
        if self.lie is not None:
            return httpx.Response(200, json={"consortium": self.lie.decode()})
        said = description(self.path)("north", request.content, None)  # type: ignore[arg-type]
        return httpx.Response(200, json=said)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has gone through all three; its site has the first."""
    folder = tmp_path / "server"
    folder.mkdir()
    for raw in (FIRST, SECOND, THIRD):
        keep(folder / "consortium.json", read_consortium(raw))
    (folder / "consortium.json").write_bytes(THIRD)
    (folder / "consortium-history" / "000000000001.json").write_bytes(b"damaged")
    made_server, plain = Server(folder / "consortium.json"), httpx.Client
    monkeypatch.setattr(
        descriptions.httpx, "Client", lambda **_: plain(transport=httpx.MockTransport(made_server))
    )
    (tmp_path / "consortium.json").write_bytes(FIRST)
    return made_server


def watch(folder: Path) -> Descriptions:
    """As the courier has it."""
    return Descriptions("fl:443", folder / "consortium.json", lambda: None)  # type: ignore[arg-type,return-value]


def test_a_site_that_was_away_catches_up(server: Server, tmp_path: Path) -> None:
    """It takes every step, keeps what it trusted before, and asks for no more than there is."""
    assert watch(tmp_path).ask() == 2
    assert (tmp_path / "consortium.json").read_bytes() == THIRD
    assert (tmp_path / "consortium.history").read_bytes() == FIRST + b"\n" + SECOND + b"\n"
    assert server.asked == 3
    assert watch(tmp_path).ask() == 0


@pytest.mark.parametrize("raw", [raw for raw, _ in REFUSED.values()], ids=REFUSED)
def test_a_lying_server_changes_nothing(server: Server, tmp_path: Path, raw: bytes) -> None:
    """The present description stays, and the thread goes on."""
    server.lie = raw
    with pytest.raises(StillroomError):
        watch(tmp_path).ask()
    watch(tmp_path).ask_once()
    assert (tmp_path / "consortium.json").read_bytes() == FIRST
    assert not (tmp_path / "consortium.history").exists()


def test_it_goes_on_asking(server: Server, tmp_path: Path) -> None:
    """From time to time, until it is told to stop; a server that lies does not end it."""
    server.lie, stop = FIRST, threading.Event()
    thread = threading.Thread(target=watch(tmp_path).keep_asking, args=(stop, 0.01))
    thread.start()
    end = time.monotonic() + 10
    while server.asked < 3 and time.monotonic() < end:
        time.sleep(0.01)
    server.lie = None
    while (tmp_path / "consortium.json").read_bytes() != THIRD and time.monotonic() < end:
        time.sleep(0.01)
    stop.set()
    thread.join(5)
    assert (tmp_path / "consortium.json").read_bytes() == THIRD
    assert not thread.is_alive()


def test_a_history_that_was_never_kept(server: Server, tmp_path: Path) -> None:
    """A server of an earlier release has consortium.json alone; that one counts."""
    for path in (server.path.parent / "consortium-history").iterdir():
        path.unlink()
    server.path.write_bytes(SECOND)
    assert watch(tmp_path).ask() == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"after":"1"}', b'{"after":-1}', b"[" * 5000])
def test_a_question_of_another_form(server: Server, body: bytes) -> None:
    """Refused with a code."""
    with pytest.raises(StillroomError) as caught:
        description(server.path)("north", body, None)  # type: ignore[arg-type]
    assert caught.value.code == "STR-300"
    assert json.loads(DescriptionQuestion(after=1).encode()) == {"after": 1}


def hospital(folder: Path, *, trial: bool = False) -> SiteConfig:
    """A site with a study that ada signed, and its consent."""
    study = Study.parse(
        {
            "study": {"name": "toy"},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"ball": {"kind": "mask", "classes": ["ball"]}},
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [{"name": "teach", "recipe": "teach", "label": "ball", "rounds": 2}],
        }
    )
    weights = {"trunk.w": np.ones(2, np.float32)}
    manifest = Manifest(
        tensors=(TensorSpec(name="trunk.w", shape=(2,), dtype="float32", group="trunk"),)
    )
    digest = write_weights(folder / "study/weights", weights)
    stage = PreparedStage(initial_sha256=digest, manifest=manifest)
    prepared = PreparedStudy(study=study, stages={"teach": stage})
    (folder / "study/study.json").write_text(prepared.model_dump_json())
    sign_study(folder / "study", ADA)
    key = new_signing_key()
    write_signing_key(folder / "signing.key", key)
    toml = {
        "site": "north",
        "server": "fl:443",
        "data": ["data"],
        "state": "state",
        "study": "study",
        "unsigned_trial": trial,
        "tls": {"ca": "ca.pem", "certificate": "site.pem", "private_key": "site.key"},
    }
    (folder / "site.toml").write_text(tomli_w.dumps(toml), "utf-8")
    config = SiteConfig.load(folder / "site.toml")
    book = getattr(config, "exchange", None)
    give_consent(
        ConsentBook.below(config.state if book is None else book),
        key,
        study=prepared.digest,
        site="north",
    )
    return config


def test_a_removed_operators_study_is_refused(server: Server, tmp_path: Path) -> None:
    """Before the next task, before the next batch, and before anything leaves; and at a restart."""
    config = hospital(tmp_path)
    agreement = Agreement.open(config)
    agreement.require()
    assert not agreement.should_stop()

    watch(tmp_path).ask()
    assert [entry.name for entry in pinned(tmp_path / "consortium.json").operators.values()] == [
        "bob"
    ]
    assert agreement.should_stop()
    for attempt in (agreement.require, lambda: Agreement.open(config)):
        with pytest.raises(StillroomError) as caught:
            attempt()
        assert caught.value.code == "STR-209"


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"{}")])
def test_a_description_lost_while_running(tmp_path: Path, damage: Any) -> None:
    """It is never taken for a site without a consortium."""
    (tmp_path / "consortium.json").write_bytes(FIRST)
    agreement = Agreement.open(hospital(tmp_path))
    damage(tmp_path / "consortium.json")
    assert agreement.should_stop()
    with pytest.raises(StillroomError):
        agreement.require()


def test_no_description_no_work(tmp_path: Path) -> None:
    """STR-213 and what to do; only the site's own word in site.toml makes it a trial."""
    with pytest.raises(StillroomError) as caught:
        Agreement.open(hospital(tmp_path))
    assert caught.value.code == "STR-213"
    assert "unsigned_trial" in caught.value.fix


def test_a_trial_is_asked_for(tmp_path: Path) -> None:
    """With it a study runs unsigned, and the log says so; with a description it has no effect."""
    config = hospital(tmp_path, trial=True)
    assert Agreement.open(config).consent is None
    (tmp_path / "consortium.json").write_bytes(THIRD)
    with pytest.raises(StillroomError) as caught:
        Agreement.open(SiteConfig.load(tmp_path / "site.toml"))
    assert caught.value.code == "STR-209"
