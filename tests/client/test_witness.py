"""The witness: follows the log, takes receipts, and stops the site when the log is rewritten."""

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.client.ledger import Line as LedgerLine
from stillroom.client.receipts import Receipts
from stillroom.client.witness import Witness
from stillroom.common.consortium import make_consortium, read_consortium
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.log_entries import UNSTAMPED, Operator, Update
from stillroom.common.log_identity import log_verifier
from stillroom.common.pki.issue import make_ca
from stillroom.common.signing import new_signing_key, public_key_hex
from stillroom.server.cosigned import Cosigned
from stillroom.server.log import Log
from stillroom.server.logbook import Logbook

SITE, KEY = "harbour", Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass
class LocalLine:
    """The log over no line; ``hidden`` files are not there."""

    book: Logbook
    hidden: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)

    def published(self, path: str) -> bytes | None:
        """A file."""
        self.fetched.append(path)
        if path in self.hidden:
            return None
        try:
            return (self.book.log.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def vouch(self, note: bytes) -> bool:
        """To the server."""
        self.book.cosigned.take(self.book.log, SITE, public_key_hex(KEY), note)
        return True


@dataclass
class World:
    """A consortium with a log, and one site."""

    folder: Path
    log_key: Ed25519PrivateKey
    line: LocalLine
    told: list[str]

    @property
    def book(self) -> Logbook:
        """The log."""
        return self.line.book

    def witness(self) -> Witness:
        """As after a restart of the courier."""
        return Witness(
            site=SITE,
            consortium=self.folder / "consortium.json",
            state=self.folder / "courier",
            line=self.line,
            key=KEY,
            note=lambda: self.told.append("STR-222"),
        )

    def grow(self, count: int) -> None:
        """Append entries."""
        self.book.note(*(Operator(time=UNSTAMPED, act=f"act {n}") for n in range(count)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    now = datetime.now(UTC)
    ca, ca_key = make_ca("Example", 2, now)
    operator, log_key = new_signing_key(), new_signing_key()
    raw = make_consortium(
        "Example", ca, ca_key, {"x": operator.public_key()}, operator, now,
        log_key=log_key.public_key(),
    )  # fmt: skip
    (tmp_path / "consortium.json").write_bytes(raw)
    origin = log_verifier(read_consortium(raw)).name
    log = Log(tmp_path / "log", tmp_path / "guard", origin, log_key)
    book = Logbook(log, Cosigned(tmp_path / "cosigned"))
    return World(tmp_path, log_key, LocalLine(book), [])


def update(sha256: str, site: str = SITE) -> Update:
    return Update(
        time=UNSTAMPED, study="ab" * 32, stage="s", round=1, site=site, status="admitted",
        sha256=sha256, bytes=7, encoding="fp32", base_sha256="cd" * 32, samples={"trunk": 2},
    )  # fmt: skip


@pytest.mark.parametrize("steps", [(1, 1, 1), (255, 1, 2), (3, 600, 40)])
def test_follows_and_vouches(world: World, steps: tuple[int, ...]) -> None:
    """Every new head is held against the one before, kept, and cosigned for everybody to see."""
    for step in steps:
        world.grow(step)
        world.witness().look()
    best = world.book.cosigned.best()

    assert best is not None
    assert (best.checkpoint.size, best.sites) == (sum(steps), (SITE,))
    published = (world.book.log.folder / "checkpoint").read_text()
    assert f"\u2014 {SITE} " in published
    before = len(world.line.fetched)
    world.witness().look()
    assert world.line.fetched[before:] == ["checkpoint"]  # no news costs one small file


def roll_back(world: World) -> None:
    shutil.rmtree(world.folder / "log")
    shutil.copytree(world.folder / "yesterday", world.folder / "log")


def fork(world: World) -> None:
    """Another history of the same length and longer, signed with the right key."""
    shutil.rmtree(world.folder / "log")
    (world.folder / "guard").unlink()
    world.book.note(*(Operator(time=UNSTAMPED, act="forged") for _ in range(30)))


def other_key(world: World) -> None:
    log = world.book.log
    shutil.rmtree(log.folder)
    log.guard.unlink()
    forged = Log(log.folder, log.guard, log.origin, new_signing_key())
    Logbook(forged, Cosigned(world.folder / "cosigned")).note(Operator(time=UNSTAMPED, act="x"))


def hide_all(world: World) -> None:
    world.line.hidden.add("checkpoint")


def hide_tiles(world: World) -> None:
    world.grow(3)
    for path in (world.folder / "log" / "tile" / "0").rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("crime", [roll_back, fork, other_key, hide_all, hide_tiles])
def test_a_server_that_rewrites_the_log_is_caught(world: World, crime: object) -> None:
    """STR-222, at this look and after every restart, until a person has looked; evidence is kept."""
    world.grow(10)
    shutil.copytree(world.folder / "log", world.folder / "yesterday")
    world.grow(10)
    world.witness().look()
    crime(world)  # type: ignore[operator]
    with pytest.raises(TrustError) as caught:
        world.witness().look()
    folder = world.folder / "courier" / "witness"

    assert caught.value.code == "STR-222"
    assert world.told == ["STR-222"]
    assert list(folder.glob("shown-*"))
    kept = (folder / "checkpoint").read_text().splitlines()
    assert kept[1] == "20"
    with pytest.raises(TrustError):
        world.witness().look()
    assert world.told == ["STR-222"]


def test_a_person_lets_it_go_on(world: World) -> None:
    """Removing the mark is the person's word; the log must still continue what was seen."""
    world.grow(2)
    world.witness().look()
    world.line.hidden.add("checkpoint")
    with pytest.raises(TrustError):
        world.witness().look()
    world.line.hidden.clear()
    world.grow(1)
    (world.folder / "courier" / "witness" / "stopped").unlink()
    world.witness().look()

    assert world.book.cosigned.since(3) == (SITE,)


def ledger_line(content: str, **changes: object) -> LedgerLine:
    return LedgerLine.model_validate(
        {
            "kind": "sent", "decision": "allowed", "study": "ab" * 32, "stage": "s", "round": 1,
            "content": content, "bytes": 7, "samples": {"trunk": 2}, "sequence": 0,
            "prev": "0" * 64, **changes,
        }
    )  # fmt: skip


def test_receipts(world: World) -> None:
    """One for each update of this site, none for others'; checked offline; a changed one is found."""
    world.grow(300)
    world.witness().look()
    mine, others, absent = "11" * 32, "22" * 32, "33" * 32
    world.book.note(update(mine), update(others, "river"))
    world.grow(2)
    world.witness().look()
    receipts = Receipts(world.folder / "courier")
    verifier = log_verifier(read_consortium((world.folder / "consortium.json").read_bytes()))

    def results(*lines: LedgerLine) -> list[str]:
        return [one.result for one in receipts.check(lines, SITE, verifier)]

    lines = [ledger_line(mine), ledger_line(absent)]
    assert results(*lines) == ["ok", "missing"]
    assert results(ledger_line(mine, samples={"trunk": 3})) == ["FAILED"]
    assert not (world.folder / "courier" / "receipts" / f"{others}.json").exists()
    proof = world.folder / "courier" / "receipts" / f"{mine}.tlog-proof"
    assert proof.stat().st_size < 4096
    proof.write_bytes(proof.read_bytes().replace(b"index 300", b"index 301"))
    assert results(*lines) == ["FAILED", "missing"]


def test_only_its_own_word_counts(world: World) -> None:
    """A cosignature by another key, or over a head that is not ours, is not taken."""
    world.grow(1)
    world.witness().look()
    kept = (world.folder / "courier" / "witness" / "checkpoint").read_bytes()
    other = public_key_hex(new_signing_key())

    for site, key, body in (
        ("river", public_key_hex(KEY), kept),
        (SITE, other, kept),
        (SITE, public_key_hex(KEY), kept.replace(b"\n1\n", b"\n2\n")),
        (SITE, public_key_hex(KEY), b""),
    ):
        with pytest.raises(ContractError):
            world.book.cosigned.take(world.book.log, site, key, body)
