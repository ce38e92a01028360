"""Everything somebody could do to a log, a ledger or a release, done; and what the audit says of it.

Three kinds of attacker: one who has only the files; one who has the log's key and no site's; and a
server that lies from the beginning, so that the sites cosign what is false. An attack counts as
detected when a check that is named for it FAILED; where and what it says goes into the table.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import generation as world_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from generation import SITES, STUDY_SHA256, World, files_in_memory, key, sha256

from stillroom.common import log_entries as said
from stillroom.common.canonical import canonical_bytes
from stillroom.common.consent import give, record_bytes
from stillroom.common.consortium import make_consortium, read_consortium
from stillroom.common.errors import StillroomError
from stillroom.common.pki.issue import make_ca
from stillroom.common.signing import public_key_hex
from stillroom.common.tlog.checkpoint import Checkpoint, sign
from stillroom.common.tlog.merkle import Tree, leaf_hash
from stillroom.common.tlog.note import Note, Signature, parse_note
from stillroom.common.tlog.proof import Proof
from stillroom.server import attestation
from stillroom.server.audit.case import Seen
from stillroom.server.audit.checks import CHECKS, verify
from stillroom.server.audit.findings import Finding
from stillroom.server.audit.history import History, tell
from stillroom.server.audit.ledgers import read_ledger
from stillroom.server.audit.published import FolderFiles
from stillroom.server.audit.reading import MemoryFiles, case_of

Entries = list[said.Entry]


@dataclass
class Bench:
    """What lies before the auditor, in memory.

    Attributes:
        world: Where it came from, with every key.
        raw: consortium.json.
        files: The published log.
        seen, ledgers, release, keys, quorum: As on the command line.
    """

    world: World
    raw: bytes
    files: dict[str, bytes]
    seen: dict[str, bytes] = field(default_factory=dict)
    ledgers: dict[str, bytes] = field(default_factory=dict)
    release: dict[str, bytes] | None = None
    keys: dict[str, str] = field(default_factory=dict)
    quorum: int = 0

    def findings(self) -> list[Finding]:
        """What ``stillroom-audit verify`` would say."""
        case = case_of(read_consortium(self.raw), MemoryFiles(self.files))
        case.seen = [Seen(name, data) for name, data in self.seen.items()]
        case.ledgers = [read_ledger(data, name) for name, data in self.ledgers.items()]
        case.release = None if self.release is None else MemoryFiles(self.release)
        case.keys, case.quorum = self.keys, self.quorum
        return verify(case)


@dataclass(frozen=True)
class Attack:
    """One thing somebody could do.

    Attributes:
        name: What is done.
        caught_by: Numbers of the checks of which one must fail; 0: refused before any.
        make: Does it.
        result: ``warning`` for what is no lie, and must be said.
    """

    name: str
    caught_by: frozenset[int]
    make: Callable[[Bench], Bench]
    result: str = "FAILED"


@dataclass(frozen=True)
class Caught:
    """What became of an attack; ``finding`` is None when nobody noticed."""

    attack: Attack
    finding: Finding | None


ATTACKS: list[Attack] = []


def attack(name: str, *caught_by: int, result: str = "FAILED") -> Callable[[Any], Any]:
    """Register what follows under its number or numbers."""

    def register(make: Callable[[Bench], Bench]) -> Callable[[Bench], Bench]:
        ATTACKS.append(Attack(name, frozenset(caught_by), make, result))
        return make

    return register


def bench_of(world: World) -> Bench:
    """An honest one: the log and nothing beside it."""
    files = FolderFiles(world.log)
    found = {name: files.read(name) or b"" for name in files.names() if name != "lock"}
    return Bench(world, world.consortium.raw, found)


def run(world: World) -> list[Caught]:
    """Every attack on a fresh copy of the honest log."""
    honest = bench_of(world)
    return [Caught(one, detected(one, copy.copy(honest))) for one in ATTACKS]


def detected(one: Attack, bench: Bench) -> Finding | None:
    """The first finding that names the attack."""
    bench.files = dict(bench.files)
    try:
        findings = one.make(bench).findings()
    except StillroomError as error:
        return (
            Finding(0, error.code, "FAILED", "consortium.json", error.what)
            if 0 in one.caught_by
            else None
        )
    wanted = [f for f in findings if f.result == one.result and f.number in one.caught_by]
    return wanted[0] if wanted else None


# What the attacks are made of ------------------------------------------------------------------


def with_seen(bench: Bench) -> Bench:
    """The auditor got every site's kept checkpoint."""
    return replace(bench, seen={f"{s}/checkpoint": bench.world.seen(s).read_bytes() for s in SITES})


def with_ledgers(bench: Bench) -> Bench:
    """The auditor got every site's ledger."""
    ledgers = {f"{s}/ledger.jsonl": bench.world.ledger(s).read_bytes() for s in SITES}
    return replace(bench, ledgers=ledgers)


def with_release(bench: Bench) -> Bench:
    """The auditor got the release."""
    files = FolderFiles(bench.world.release)
    return replace(bench, release={name: files.read(name) or b"" for name in files.names()})


def forged(
    bench: Bench, entries: Sequence[bytes], *, log_key: Ed25519PrivateKey | None = None
) -> Bench:
    """Another log in its place: without the log's key under the old checkpoint, or signed with it."""
    old = bench.files["checkpoint"]
    files = files_in_memory(bench.world, entries, log_key or key("nobody"))
    if log_key is None:
        files["checkpoint"] = old
    return replace(bench, files=files)


def retold(bench: Bench, change: Callable[[Entries], Entries]) -> Bench:
    """A server that wrote this from the beginning: cosigned by everybody, checkpoints and all."""
    world, entries = bench.world, [said.parse_entry(raw) for raw in bench.world.entries]
    plain = change([e for e in entries if not isinstance(e, said.Witnessed)])
    raws: list[bytes] = []
    tree = Tree()
    for entry in plain:
        raws.append(entry.to_bytes())
        tree.append(leaf_hash(raws[-1]))
        if isinstance(entry, said.RoundCommitted) and entry.round % 20 == 1:
            note = world.cosign(_head(world, tree), 1_772_438_500)
            text = note.to_bytes().decode()
            raws.append(said.Witnessed(time=entry.time, checkpoint=text).to_bytes())
            tree.append(leaf_hash(raws[-1]))
    files = files_in_memory(world, raws, world.log_key)
    files["checkpoint"] = world.cosign(_head(world, tree), 1_772_440_000).to_bytes()
    return replace(bench, files=files)


def _head(world: World, tree: Tree) -> Note:
    return sign(Checkpoint(world.origin, len(tree), tree.root()), world.log_key)


def edited(
    entries: Entries, kind: type[said.Entry], where: dict[str, Any], **change: Any
) -> Entries:
    """The first entry of a kind that matches, changed."""
    at = position(entries, kind, **where)
    fresh = entries[at].model_copy(update=change)
    return [*entries[:at], fresh, *entries[at + 1 :]]


def position(entries: Entries, kind: type[said.Entry], **where: Any) -> int:
    """Where the first such entry is."""
    for at, entry in enumerate(entries):
        if isinstance(entry, kind) and all(getattr(entry, k) == v for k, v in where.items()):
            return at
    raise LookupError(where)


def without(entries: Entries, kind: type[said.Entry], **where: Any) -> Entries:
    """All but the first such entry."""
    at = position(entries, kind, **where)
    return [*entries[:at], *entries[at + 1 :]]


COUNTED = {"stage": "distil", "round": 3}
NORTH = {**COUNTED, "site": "north"}


# One who has only the files --------------------------------------------------------------------


def _some(bench: Bench) -> list[bytes]:
    return list(bench.world.entries)


@attack("entry edited in its bundle", 2)
def _(bench: Bench) -> Bench:
    name = "tile/entries/001"
    bench.files[name] = bench.files[name].replace(b'"round":40', b'"round":41', 1)
    return bench


@attack("entry edited, tiles and root recomputed", 4)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    entries[500] = entries[500].replace(b"2026", b"2025", 1)
    return forged(bench, entries)


@attack("entry deleted, tiles and root recomputed", 4)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    return forged(bench, [*entries[:300], *entries[301:], entries[-1]])


@attack("entry inserted, tiles and root recomputed", 4)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    return forged(bench, [*entries[:300], entries[300], *entries[300:-1]])


@attack("entries swapped, tiles and root recomputed", 4)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    entries[400], entries[401] = entries[401], entries[400]
    return forged(bench, entries)


@attack("checkpoint's root replaced by the recomputed one", 1)
def _(bench: Bench) -> Bench:
    entries = _some(bench)[:-1]
    files = files_in_memory(bench.world, entries, key("nobody"))
    old = parse_note(bench.files["checkpoint"])
    text = parse_note(files["checkpoint"]).text
    return replace(bench, files={**files, "checkpoint": Note(text, old.signatures).to_bytes()})


@attack("whole log rewritten under another key of the same name", 1)
def _(bench: Bench) -> Bench:
    return forged(bench, _some(bench)[:-1], log_key=key("attacker"))


@attack("log's key replaced in consortium.json, and the log signed with it", 0)
def _(bench: Bench) -> Bench:
    forged_key = public_key_hex(key("attacker")).encode()
    raw = bench.raw.replace(public_key_hex(bench.world.log_key).encode(), forged_key)
    return replace(forged(bench, _some(bench), log_key=key("attacker")), raw=raw)


@attack("another consortium.json altogether, with a log of its own key", 12)
def _(bench: Bench) -> Bench:
    now = datetime.fromtimestamp(world_of.START, UTC)
    ca, ca_key = make_ca(world_of.NAME, 3650, now)
    operator = key("operator").public_key()
    log_key = key("attacker")
    raw = make_consortium(
        world_of.NAME,
        ca,
        ca_key,
        {"Ada": operator},
        key("operator"),
        now,
        log_key=log_key.public_key(),
    )
    return replace(forged(bench, _some(bench), log_key=log_key), raw=raw)


@attack("log truncated under its present checkpoint", 2, 3)
def _(bench: Bench) -> Bench:
    kept = {name: data for name, data in bench.files.items() if "003" not in name}
    return replace(bench, files=kept)


@attack("tile removed", 3)
def _(bench: Bench) -> Bench:
    del bench.files["tile/0/001"]
    return bench


@attack("bundle put in another's place", 2)
def _(bench: Bench) -> Bench:
    bench.files["tile/entries/001"] = bench.files["tile/entries/002"]
    return bench


@attack("earlier form of a tile altered", 5)
def _(bench: Bench) -> Bench:
    name = "tile/entries/003.p/132"
    bench.files[name] = bench.files[name].replace(b"distil", b"distal", 1)
    return bench


@attack("rolled back to yesterday's disk, whole and cosigned", 8)
def _(bench: Bench) -> Bench:
    size = max(size for size in bench.world.heads if size < 900)
    files = files_in_memory(bench.world, bench.world.entries[:size], bench.world.log_key)
    files["checkpoint"] = bench.world.heads[size].to_bytes()
    return with_seen(replace(bench, files=files))


@attack("cosignature moved from an earlier checkpoint", 6)
def _(bench: Bench) -> Bench:
    note = parse_note(bench.files["checkpoint"])
    old = bench.world.heads[max(bench.world.heads)]
    bench.files["checkpoint"] = Note(
        note.text, (note.signatures[0], *old.signatures[1:])
    ).to_bytes()
    return bench


@attack("cosignature put under another site's name", 6)
def _(bench: Bench) -> Bench:
    log, lake, north, river = parse_note(bench.files["checkpoint"]).signatures
    stolen = Signature(river.name, river.key_id, lake.value)
    text = parse_note(bench.files["checkpoint"]).text
    bench.files["checkpoint"] = Note(text, (log, lake, north, stolen)).to_bytes()
    return bench


@attack("cosignature's time altered", 6)
def _(bench: Bench) -> Bench:
    note = parse_note(bench.files["checkpoint"])
    one = note.signatures[1]
    later = Signature(one.name, one.key_id, (2**40).to_bytes(8, "big") + one.value[8:])
    lines = (note.signatures[0], later, *note.signatures[2:])
    bench.files["checkpoint"] = Note(note.text, lines).to_bytes()
    return bench


@attack("cosignatures removed", 7)
def _(bench: Bench) -> Bench:
    note = parse_note(bench.files["checkpoint"])
    bench.files["checkpoint"] = Note(note.text, note.signatures[:1]).to_bytes()
    return bench


# One who has the log's key, and no site's ------------------------------------------------------


def _plain(bench: Bench, change: Callable[[Entries], Entries]) -> Bench:
    """Rewritten and signed again; recorded checkpoints dropped, no witness asked for."""
    entries = [said.parse_entry(raw) for raw in bench.world.entries]
    plain = change([e for e in entries if not isinstance(e, said.Witnessed)])
    plain = edited(plain, said.StudyStarted, {}, witnesses=0)
    return forged(bench, [e.to_bytes() for e in plain], log_key=bench.world.log_key)


def _hide_refusal(entries: Entries) -> Entries:
    return edited(entries, said.Refused, {}, reasons={"STR-201": 0})


@attack("entry edited and signed again, old cosignatures kept", 6)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    entries[-1] = entries[-1].replace(b"tavi-landmarks-1", b"tavi-landmarks-2")
    again = forged(bench, entries, log_key=bench.world.log_key)
    note = parse_note(again.files["checkpoint"])
    old = parse_note(bench.files["checkpoint"]).signatures[1:]
    again.files["checkpoint"] = Note(note.text, (*note.signatures, *old)).to_bytes()
    return again


@attack("entry edited and signed again, without cosignatures", 7)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    entries[-1] = entries[-1].replace(b"tavi-landmarks-1", b"tavi-landmarks-2")
    return forged(bench, entries, log_key=bench.world.log_key)


@attack("entry edited early, recorded checkpoints kept", 9)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    entries[7] = entries[7].replace(b"put on", b"took off")
    return forged(bench, entries, log_key=bench.world.log_key)


@attack("rewritten, every trace of witnesses dropped: the auditor demands two", 7)
def _(bench: Bench) -> Bench:
    return replace(_plain(bench, _hide_refusal), quorum=2)


@attack("rewritten, every trace of witnesses dropped: a site kept a checkpoint", 8)
def _(bench: Bench) -> Bench:
    return with_seen(_plain(bench, _hide_refusal))


@attack("entry deleted and signed again: a site kept a checkpoint", 8)
def _(bench: Bench) -> Bench:
    return with_seen(_plain(bench, lambda entries: without(entries, said.Refused)))


@attack("forked: another continuation for the auditor", 8)
def _(bench: Bench) -> Bench:
    size = max(size for size in bench.world.heads if size < 930)
    other = [
        said.Operator(time="2026-03-02T09:00:00.000Z", act="nothing", subject=str(n)).to_bytes()
        for n in range(1000 - size)
    ]
    entries = [*bench.world.entries[:size], *other]
    return with_seen(forged(bench, entries, log_key=bench.world.log_key))


def _own_witnesses(bench: Bench) -> Bench:
    """Sites' keys replaced in the log by the attacker's, who then cosigns and consents himself."""
    mine = {site: key(f"attacker of {site}") for site in SITES}
    fake = copy.copy(bench.world)
    fake.keys = mine

    def change(entries: Entries) -> Entries:
        fresh: Entries = []
        for entry in entries:
            if isinstance(entry, said.Member) and entry.signing_key:
                changed = {"signing_key": public_key_hex(mine[entry.site])}
                fresh.append(entry.model_copy(update=changed))
            elif isinstance(entry, said.Consent) and entry.act == "given":
                record = give(
                    mine[entry.site], study=STUDY_SHA256, site=entry.site, now=1_772_438_400
                )
                text = record_bytes(record).decode()
                fresh.append(entry.model_copy(update={"record": text}))
            elif not isinstance(entry, said.Consent):
                fresh.append(entry)
        return fresh

    return replace(retold(replace(bench, world=fake), change), world=bench.world)


@attack("sites' keys replaced in the log, cosigned with those: a site names its own key", 20)
def _(bench: Bench) -> Bench:
    keys = {"north": public_key_hex(bench.world.keys["north"])}
    return replace(_own_witnesses(bench), keys=keys)


@attack("sites' keys replaced in the log, cosigned with those: a site kept a checkpoint", 8)
def _(bench: Bench) -> Bench:
    return with_seen(_own_witnesses(bench))


# A server that lies from the beginning ----------------------------------------------------------


def lie(name: str, *caught_by: int, result: str = "FAILED") -> Callable[[Any], Any]:
    """As ``attack``, for a change of what is told."""

    def register(change: Callable[[Entries], Entries]) -> Callable[[Entries], Entries]:
        make = lambda bench: retold(bench, change)  # noqa: E731
        ATTACKS.append(Attack(name, frozenset(caught_by), make, result))
        return change

    return register


@lie("a participant's admitted update left out of the sum", 33)
def _(entries: Entries) -> Entries:
    return edited(entries, said.RoundCommitted, COUNTED, order=("lake", "river"))


@lie("a participant neither asked nor named", 36)
def _(entries: Entries) -> Entries:
    fresh = edited(entries, said.RoundOpened, COUNTED, invited=("lake", "river"))
    fresh = without(fresh, said.Update, **NORTH)
    return edited(
        fresh, said.RoundCommitted, COUNTED, order=("lake", "river"), expected=("lake", "river")
    )


@lie("a participant asked, missing, and nothing said of it", 36)
def _(entries: Entries) -> Entries:
    fresh = without(entries, said.Update, **NORTH)
    totals = {"all": 22, "distil": 8}
    return edited(fresh, said.RoundCommitted, COUNTED, order=("lake", "river"), totals=totals)


@lie("summed without an update", 33)
def _(entries: Entries) -> Entries:
    return without(entries, said.Update, **NORTH)


@lie("a refused update summed", 33)
def _(entries: Entries) -> Entries:
    return edited(entries, said.Update, NORTH, status="refused", code="STR-303")


@lie("a site summed twice", 33)
def _(entries: Entries) -> Entries:
    order = ("lake", "north", "north", "river")
    return edited(entries, said.RoundCommitted, COUNTED, order=order)


@lie("totals that are not the sum", 33)
def _(entries: Entries) -> Entries:
    return edited(entries, said.RoundCommitted, COUNTED, totals={"all": 99})


@lie("a round that starts from another model", 34)
def _(entries: Entries) -> Entries:
    return edited(entries, said.RoundOpened, COUNTED, base_sha256=sha256(b"other"))


@lie("an update made from another model", 34)
def _(entries: Entries) -> Entries:
    return edited(entries, said.Update, NORTH, base_sha256=sha256(b"other"))


@lie("a round's model replaced", 34)
def _(entries: Entries) -> Entries:
    return edited(entries, said.RoundCommitted, COUNTED, model_sha256=sha256(b"other"))


@lie("a whole round left out", 30)
def _(entries: Entries) -> Entries:
    return [
        e for e in entries if (getattr(e, "stage", ""), getattr(e, "round", 0)) != ("distil", 3)
    ]


@lie("a round committed twice", 23)
def _(entries: Entries) -> Entries:
    at = position(entries, said.RoundCommitted, **COUNTED)
    return [*entries[: at + 1], entries[at], *entries[at + 1 :]]


@lie("an update after its round was committed", 31)
def _(entries: Entries) -> Entries:
    at = position(entries, said.RoundCommitted, **COUNTED)
    late = entries[position(entries, said.Update, **NORTH)]
    return [*entries[: at + 1], late, *entries[at + 1 :]]


@lie("an update of a site that was not asked", 31)
def _(entries: Entries) -> Entries:
    left_out = {"north": "busy"}
    return edited(entries, said.RoundOpened, COUNTED, invited=("lake", "river"), left_out=left_out)


@lie("an answer counted twice", 31)
def _(entries: Entries) -> Entries:
    at = position(entries, said.Update, **NORTH)
    return [*entries[: at + 1], entries[at], *entries[at + 1 :]]


@lie("an update of a site that never consented", 32)
def _(entries: Entries) -> Entries:
    return without(entries, said.Consent, site="lake")


@lie("an update after its site withdrew", 32)
def _(entries: Entries) -> Entries:
    at = max(i for i, e in enumerate(entries) if isinstance(e, said.Consent) and e.site == "north")
    return [*entries[:at], *entries[at + 1 :]]


@lie("an update of a site that had been revoked", 32)
def _(entries: Entries) -> Entries:
    at = position(entries, said.RoundOpened, **COUNTED)
    out = said.Member(time=entries[at].time, site="north", act="revoked")
    return [*entries[: at + 1], out, *entries[at + 1 :]]


@lie("a consent signed with another key", 21)
def _(entries: Entries) -> Entries:
    record = give(key("attacker"), study=STUDY_SHA256, site="lake", now=1_772_438_400)
    text = record_bytes(record).decode()
    return edited(entries, said.Consent, {"site": "lake"}, record=text)


@lie("a consent that had expired", 32)
def _(entries: Entries) -> Entries:
    record = give(key("lake"), study=STUDY_SHA256, site="lake", now=1_700_000_000, days=1)
    text = record_bytes(record).decode()
    return edited(entries, said.Consent, {"site": "lake"}, record=text)


@lie("a withdrawal told as a consent", 21)
def _(entries: Entries) -> Entries:
    return edited(entries, said.Consent, {"act": "withdrawn"}, act="given")


@lie("a study that no operator signed", 22)
def _(entries: Entries) -> Entries:
    return edited(entries, said.StudyStarted, {}, signature="")


@lie("a study's signature taken from another study", 22)
def _(entries: Entries) -> Entries:
    text = entries[position(entries, said.StudyStarted)].signature.replace(STUDY_SHA256, "0" * 64)
    return edited(entries, said.StudyStarted, {}, signature=text)


@lie("a teacher that is not its stage's last model", 35)
def _(entries: Entries) -> Entries:
    teachers = {"teach-valve": sha256(b"other")}
    return edited(entries, said.StageOpened, {"recipe": "pseudolabel"}, teachers=teachers)


@lie("a teacher used before its stage was over", 35)
def _(entries: Entries) -> Entries:
    at = position(entries, said.StageOpened, recipe="pseudolabel")
    to = position(entries, said.StageOpened, stage="teach-leaflets")
    return [*entries[:to], entries[at], *entries[to:at], *entries[at + 1 :]]


@lie("full participation claimed of a result from a subset", 37)
def _(entries: Entries) -> Entries:
    return edited(entries, said.StudyFinished, {}, complete_participation=True)


@lie("last models that no round made", 37)
def _(entries: Entries) -> Entries:
    return edited(entries, said.StudyFinished, {}, models={"distil": sha256(b"other")})


@lie("a site's signing key changed without a new approval", 20)
def _(entries: Entries) -> Entries:
    at = position(entries, said.RoundOpened, **COUNTED)
    fresh = said.Member(
        time=entries[at].time, site="north", act="renewed", signing_key=public_key_hex(key("other"))
    )
    return [*entries[:at], fresh, *entries[at:]]


@lie("a site that was revoked before it was a member", 20)
def _(entries: Entries) -> Entries:
    out = said.Member(time=entries[0].time, site="harbour", act="revoked")
    return [entries[0], out, *entries[1:]]


@lie("an entry of a stage that never began", 23)
def _(entries: Entries) -> Entries:
    return without(entries, said.StageOpened, stage="teach-valve")


@lie("a clock that went back", 11, result="warning")
def _(entries: Entries) -> Entries:
    return edited(entries, said.RoundOpened, COUNTED, time="2026-03-02T07:00:00.000Z")


@attack("an entry that is spelt in another way", 10)
def _(bench: Bench) -> Bench:
    entries = _some(bench)
    entries[-1] = entries[-1].replace(b'":"', b'": "', 1)
    return forged(bench, entries, log_key=bench.world.log_key)


# Ledger and log disagree -----------------------------------------------------------------------


@attack("the server hid an update that left", 51)
def _(bench: Bench) -> Bench:
    def change(entries: Entries) -> Entries:
        fresh = without(entries, said.Update, **NORTH)
        missing = {"north": "no answer in time"}
        return edited(
            fresh, said.RoundCommitted, COUNTED, order=("lake", "river"), missing=missing,
            totals={"all": 22, "distil": 8},
        )  # fmt: skip

    return with_ledgers(retold(bench, change))


@attack("the server names an update that never left", 52)
def _(bench: Bench) -> Bench:
    change = lambda entries: edited(entries, said.Update, NORTH, sha256=sha256(b"other"))  # noqa: E731
    return with_ledgers(retold(bench, change))


@attack("the server replaced an update by another", 51)
def _(bench: Bench) -> Bench:
    change = lambda entries: edited(entries, said.Update, NORTH, sha256=sha256(b"other"))  # noqa: E731
    return with_ledgers(retold(bench, change))


@attack("the server changed how many cases an update counts for", 53)
def _(bench: Bench) -> Bench:
    def change(entries: Entries) -> Entries:
        fresh = edited(entries, said.Update, NORTH, samples={"all": 1, "distil": 4})
        return edited(fresh, said.RoundCommitted, COUNTED, totals={"all": 23, "distil": 12})

    return with_ledgers(retold(bench, change))


@attack("a site's ledger edited", 50)
def _(bench: Bench) -> Bench:
    bench = with_ledgers(bench)
    name = "north/ledger.jsonl"
    bench.ledgers[name] = bench.ledgers[name].replace(b'"round":7', b'"round":8', 1)
    return bench


@attack("a line taken out of a site's ledger", 50)
def _(bench: Bench) -> Bench:
    bench = with_ledgers(bench)
    lines = bench.ledgers["north/ledger.jsonl"].split(b"\n")
    bench.ledgers["north/ledger.jsonl"] = b"\n".join([*lines[:9], *lines[10:]])
    return bench


@attack("a site's ledger written anew without one update", 52)
def _(bench: Bench) -> Bench:
    bench = with_ledgers(bench)
    ledger = bench.ledgers["north/ledger.jsonl"]
    values = [json.loads(line) for line in ledger.split(b"\n")[:-1]]
    del values[9]
    before, lines = "0" * 64, []
    for number, value in enumerate(values):
        line = canonical_bytes({**value, "sequence": number, "prev": before})
        before = sha256(line)
        lines.append(line + b"\n")
    bench.ledgers["north/ledger.jsonl"] = b"".join(lines)
    return bench


# The release -----------------------------------------------------------------------------------


def _file_changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Bench], Bench]:
    def make(bench: Bench) -> Bench:
        bench = with_release(bench)
        assert bench.release is not None
        bench.release[name] = change(bench.release.get(name, b""))
        return bench

    return make


def _bit(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


RELEASE = [
    ("release weights altered", (42,), "model.safetensors", _bit),
    ("release weights altered, seen among its files", (44,), "model.safetensors", _bit),
    ("model card altered", (44,), "model_card.md", lambda data: data + b"!"),
    ("a file added to the release", (44,), "bundle/evil.py", lambda _: b"print()"),
    ("another study in the release", (42,), "study.json", lambda data: data + b" "),
    ("statement altered", (43,), attestation.STATEMENT_FILE, lambda d: d.replace(b"tavi", b"mitr")),
    (
        "the release brings another entry",
        (40,),
        attestation.ENTRY_FILE,
        lambda d: d.replace(b"-1", b"-2"),
    ),
    ("proof altered", (41,), attestation.PROOF_FILE, lambda d: d.replace(b"index 9", b"index 8")),
]
for _name, _numbers, _file, _change in RELEASE:
    ATTACKS.append(Attack(_name, frozenset(_numbers), _file_changed(_file, _change)))


@attack("a file taken out of the release", 44)
def _(bench: Bench) -> Bench:
    bench = with_release(bench)
    assert bench.release is not None
    del bench.release["model_card.md"]
    return bench


@attack("a release proven by a forked log of the same key", 41)
def _(bench: Bench) -> Bench:
    bench = with_release(bench)
    assert bench.release is not None
    entries = [*bench.world.entries[:-2], bench.world.entries[-1]]
    tree = Tree(map(leaf_hash, entries))
    proof = Proof(len(tree) - 1, tuple(tree.inclusion(len(tree) - 1)), _head(bench.world, tree))
    bench.release[attestation.PROOF_FILE] = proof.to_bytes()
    return bench


def _released(
    bench: Bench, change: Callable[[attestation.Statement], attestation.Statement], **entry: Any
) -> Bench:
    """A server that lies about the release in the log itself."""
    bench = with_release(bench)
    assert bench.release is not None
    history = _history(retold(bench, lambda entries: entries))
    files = {n: sha256(d) for n, d in bench.release.items() if not n.startswith("proof/")}
    predicate = attestation.predicate_of(history.runs[-1], bench.world.origin)
    data = change(attestation.make_statement(files, predicate)).to_bytes()
    fresh = dict(entry, statement_sha256=sha256(data))
    again = retold(bench, lambda entries: edited(entries, said.Release, {}, **fresh))
    raw = _history(again).releases[-1][1].to_bytes()
    proof = {attestation.STATEMENT_FILE: data, attestation.ENTRY_FILE: raw}
    return replace(again, release={**bench.release, **proof})


def _history(bench: Bench) -> History:
    contents = case_of(bench.world.consortium, MemoryFiles(bench.files)).contents
    return tell(contents.numbered())


@attack("a student released that no stage distilled", 42)
def _(bench: Bench) -> Bench:
    other = world_of.weights("another student")
    bench = _released(bench, lambda statement: statement, student_sha256=sha256(other))
    assert bench.release is not None
    bench.release["model.safetensors"] = other
    return bench


@attack("a statement, named by the log, that leaves out a site's updates", 45)
def _(bench: Bench) -> Bench:
    def change(statement: attestation.Statement) -> attestation.Statement:
        stages = tuple(
            stage.model_copy(
                update={"updates": tuple(u for u in stage.updates if u.site != "north")}
            )
            for stage in statement.predicate.stages
        )
        predicate = statement.predicate.model_copy(update={"stages": stages})
        return statement.model_copy(update={"predicate": predicate})

    return _released(bench, change)


# One byte ----------------------------------------------------------------------------------------


def titles() -> dict[int, str]:
    """Number -> title of every check."""
    return {check.number: check.title for check in CHECKS}


def samples(files: dict[str, bytes], count: int) -> Iterator[tuple[str, int]]:
    """Some positions of every file: its ends, and ``count`` others."""
    chance = random.Random(4)  # noqa: S311
    for name, data in files.items():
        places = {0, len(data) - 1} | {chance.randrange(len(data)) for _ in range(count)}
        yield from ((name, at) for at in sorted(places))
