"""The server keeps what sites sign, asks it before every round, and cannot make it up."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.consent import Record, Standing, give, record_bytes, withdraw
from stillroom.common.errors import ConfigError, StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import INVENTORY, LABEL, ROUND, Reply, UpdateRef
from stillroom.common.signing import new_signing_key, public_key_hex
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise, write_weights
from stillroom.server.asking import Awaited, Call
from stillroom.server.consents import RegistryConsents, receive, standings
from stillroom.server.depot import Depot
from stillroom.server.rounds.outcome import Answer
from stillroom.server.store.folder import RunFolder
from stillroom.server.store.journal import read_events
from stillroom.server.store.members import Issued, Request
from stillroom.server.store.registry import Registry
from stillroom.server.study_run import StudyRun

STUDY, NOW = "a" * 64, 1_790_000_000


def enrol(registry: Registry, name: str) -> Ed25519PrivateKey:
    """Put an enrolled site into the registry; returns its signing key."""
    key = new_signing_key()
    registry.invite(name, f"token-{name}", NOW)
    request = Request(
        pem="", spki_sha256=f"spki-{name}", signing_key=public_key_hex(key), fingerprint=name
    )
    registry.request(f"token-{name}", request, NOW)
    registry.enrol(name, name, Issued(pem="", sha256=name, not_after=NOW + 1e6), NOW)
    return key


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    with Registry.create(tmp_path / "registry.db") as opened:
        yield opened


def tell(registry: Registry, site: str, record: Record) -> None:
    """What the courier does."""
    receive(site, record_bytes(record), registry, now=NOW)


def test_a_consent_is_kept_and_a_withdrawal_ends_it(registry: Registry) -> None:
    """Given, then withdrawn; the replayed consent changes nothing; a new one does."""
    key = enrol(registry, "harbour")
    yes = give(key, study=STUDY, site="harbour", now=NOW)
    no = withdraw(key, study=STUDY, site="harbour", now=NOW + 5, earlier=yes)
    found = []
    for record in (yes, no, yes, give(key, study=STUDY, site="harbour", now=NOW + 9)):
        tell(registry, "harbour", record)
        found.append(standings(registry, STUDY, now=NOW + 10)["harbour"])
    assert found == ["given", "withdrawn", "withdrawn", "given"]
    assert len(registry.query("SELECT id FROM consents")) == 3


def test_every_site_of_the_registry_has_a_standing(registry: Registry) -> None:
    """No record, another study, expired, revoked: none of them counts."""
    keys = {name: enrol(registry, name) for name in ("aa", "bb", "cc", "dd")}
    tell(registry, "bb", give(keys["bb"], study="b" * 64, site="bb", now=NOW))
    tell(registry, "cc", give(keys["cc"], study=STUDY, site="cc", now=NOW - 86400, days=1))
    tell(registry, "dd", give(keys["dd"], study=STUDY, site="dd", now=NOW))
    registry.revoke("dd", NOW)
    assert standings(registry, STUDY, now=NOW) == {
        "aa": "none",
        "bb": "none",
        "cc": "expired",
        "dd": "none",
    }


@pytest.mark.parametrize(
    ("sender", "speaks_for", "signer", "code"),
    [
        ("river", "harbour", "harbour", "STR-206"),
        ("river", "harbour", "river", "STR-206"),
        ("stranger", "stranger", "river", "STR-206"),
        ("harbour", "harbour", "river", "STR-207"),
    ],
)
def test_nobody_consents_for_another(
    registry: Registry, sender: str, speaks_for: str, signer: str, code: str
) -> None:
    """The connection, the record and the enrolled signing key must all be one site's."""
    keys = {name: enrol(registry, name) for name in ("harbour", "river")}
    record = give(keys[signer], study=STUDY, site=speaks_for, now=NOW)
    with pytest.raises(StillroomError) as caught:
        tell(registry, sender, record)
    assert caught.value.code == code
    assert registry.query("SELECT id FROM consents") == []


def test_a_server_that_writes_its_own_record_is_not_believed(registry: Registry) -> None:
    """A row put past ``receive`` does not verify with the site's key when a round asks."""
    enrol(registry, "harbour")
    forged = give(new_signing_key(), study=STUDY, site="harbour", now=NOW)
    with registry.transaction() as db:
        db.execute(
            "INSERT INTO consents (site, study, record, signed_at, received_at)"
            " VALUES ('harbour', ?, ?, 0, 0)",
            (STUDY, record_bytes(forged)),
        )
    assert standings(registry, STUDY, now=NOW) == {"harbour": "invalid"}


def test_a_run_asks_the_registry_as_it_is_now(registry: Registry, tmp_path: Path) -> None:
    """What another process wrote meanwhile is seen at the next question."""
    key = enrol(registry, "harbour")
    ask = RegistryConsents(tmp_path / "registry.db", STUDY)
    assert ask() == {"harbour": "none"}
    receive("harbour", record_bytes(give(key, study=STUDY, site="harbour", now=1)), registry)
    assert ask() == {"harbour": "expired"}


SPECS = (TensorSpec(name="w", shape=(4,), dtype="float32", group="trunk"),)
START = {"w": np.zeros(4, np.float32)}
TRAIN = {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 2}


@dataclass
class Exchange:
    """Three sites that answer well, and remember what they were asked."""

    depot: Depot
    asked: list[tuple[str, str]] = field(default_factory=list)

    def sites(self) -> tuple[str, ...]:
        """All that are connected."""
        return ("harbour", "river", "summit")

    def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
        """One answer per call, in order."""
        for call in calls:
            self.asked.append((call.kind, call.site))
            yield call, Answer(self.reply(call), None, 0.1)

    def reply(self, call: Call) -> Reply:
        """As a good site."""
        if call.kind == INVENTORY:
            return Reply(metrics={"inventory.cases": 9, "inventory.vessels.cases": 9})
        if call.kind == ROUND:
            model = call.task.models[call.task.stage]
            data = serialise(START)
            self.depot.append(call.site, model.sha256, [data], offset=0, total=len(data))
            update = UpdateRef("fp32", model.sha256, model.sha256, len(data))
            return Reply(update, {"trunk": 2}, {"train.loss": 0.5})
        if call.kind == LABEL:
            return Reply(metrics={"pseudo.vessels.written": 3})
        return Reply(metrics={"eval.cases": 2})


def run_study(
    folder: Path, consents: Any, exchange: Exchange
) -> tuple[dict[str, Any], BaseException | None]:
    """The result of a study of one teacher and one student, and what it raised."""
    digest = write_weights(folder / "weights", START)
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=SPECS))
    study = Study.parse(
        {
            "study": {"name": "fake", "held_out": ["summit"]},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [TRAIN, {"name": "student", "recipe": "distil", "rounds": 2}],
        }
    )
    prepared = PreparedStudy(study=study, stages={"teach": stage, "student": stage})
    run = StudyRun(
        prepared, RunFolder(folder / "run", folder / "weights"), exchange, exchange.depot
    )
    run.consents = consents
    error: BaseException | None = None
    try:
        run.run()
    except StillroomError as caught:
        error = caught
    return json.loads((folder / "run" / "result.json").read_text("utf-8")), error


def test_a_site_without_consent_is_asked_nothing(tmp_path: Path) -> None:
    """Not even how many cases it has; the run says why."""
    said: Mapping[str, Standing] = {"harbour": "given", "river": "expired"}
    exchange = Exchange(Depot(tmp_path / "depot"))
    result, error = run_study(tmp_path, lambda: said, exchange)
    assert error is None
    assert {site for _, site in exchange.asked} == {"harbour"}
    assert result["consents"] == dict(said)
    assert "river takes no part: consent expired." in result["notes"]
    assert "summit takes no part: no consent given." in result["notes"]
    assert not result["complete_participation"]


def test_a_site_that_withdraws_is_left_out_of_the_next_round(tmp_path: Path) -> None:
    """The study goes on with the others; the round and the result say who left and why."""
    said: dict[str, Standing] = dict.fromkeys(("harbour", "river", "summit"), "given")
    exchange = Exchange(Depot(tmp_path / "depot"))

    def ask() -> Mapping[str, Standing]:
        if (ROUND, "river") in exchange.asked:
            said["river"] = "withdrawn"
        return said

    result, error = run_study(tmp_path, ask, exchange)
    assert error is None
    assert exchange.asked.count((ROUND, "river")) == 1
    assert exchange.asked.count((ROUND, "harbour")) == 4
    assert result["notes"].count("river takes no part: consent withdrawn.") == 1
    opened = [e for _, e in read_events(tmp_path / "run") if e["event"] == "round.opened"]
    assert opened[-1]["left_out"]["river"] == "consent withdrawn"


def test_a_study_nobody_consents_to_does_not_run(tmp_path: Path) -> None:
    """It ends with a code and asks nobody anything."""
    exchange = Exchange(Depot(tmp_path / "depot"))
    result, error = run_study(tmp_path, dict, exchange)
    assert isinstance(error, ConfigError)
    assert error.code == "STR-104"
    assert exchange.asked == []
    assert result["status"] == "failed"
