"""A consortium as it could have been: real keys, a signed study, rounds, ledgers, a release.

Everything is made with the code that would make it in earnest; only training is left out, so that
a "model" is some bytes and its digest.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.client.ledger import Disk, Ledger
from stillroom.client.ledger import Entry as Line
from stillroom.common import log_entries as said
from stillroom.common.canonical import canonical_bytes
from stillroom.common.consent import give, record_bytes, withdraw
from stillroom.common.consortium import Consortium, make_consortium, read_consortium
from stillroom.common.log_identity import log_origin
from stillroom.common.pki.issue import make_ca
from stillroom.common.signed_study import PURPOSE, StudySignature
from stillroom.common.signing import key_id, public_key_hex, sign
from stillroom.common.tlog.checkpoint import Checkpoint, cosign
from stillroom.common.tlog.checkpoint import sign as sign_checkpoint
from stillroom.common.tlog.folder import LogFolder
from stillroom.common.tlog.merkle import Tree, leaf_hash
from stillroom.common.tlog.note import Note
from stillroom.common.tlog.tiles import WIDTH, bundle, tile, tile_path, tiles_of
from stillroom.server import attestation
from stillroom.server.audit.history import tell
from stillroom.server.log import Log, published
from stillroom.server.rounds.outcome import reason

SITES = ("lake", "north", "river")
NAME = "Example Heart Consortium"
START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC).timestamp()
OWNERS = {"teach-valve": ("north", "river"), "teach-leaflets": ("lake", "river")}
STUDY = canonical_bytes({"format": "example-study", "name": "tavi-landmarks"})
STUDY_SHA256 = hashlib.sha256(STUDY).hexdigest()
RUN = "run-1"
BATCHES = 10


def key(name: str) -> Ed25519PrivateKey:
    """A key that is the same in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def weights(name: str) -> bytes:
    """Some bytes in place of a model's or an update's."""
    return hashlib.shake_256(name.encode()).digest(2048)


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class QuickDisk(Disk):
    """A ledger that is made for a test need not outlive a power cut."""

    def fsync(self, descriptor: int) -> None:
        """Nothing."""


@dataclass
class World:
    """One consortium.

    Attributes:
        folder: Everything is below it.
        consortium: Its description.
        keys: Sites' signing keys.
        log_key: The log's.
        entries: The log, as it was written.
        heads: Size -> checkpoint as it was cosigned at that size.
    """

    folder: Path
    consortium: Consortium
    keys: dict[str, Ed25519PrivateKey]
    log_key: Ed25519PrivateKey
    entries: list[bytes] = field(default_factory=list)
    heads: dict[int, Note] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The log's name."""
        return log_origin(self.consortium.name)

    @property
    def log(self) -> Path:
        """The published log."""
        return self.folder / "log"

    @property
    def release(self) -> Path:
        """The release."""
        return self.folder / "release"

    def ledger(self, site: str) -> Path:
        """A site's ledger."""
        return self.folder / site / "ledger.jsonl"

    def seen(self, site: str) -> Path:
        """The last checkpoint that a site kept."""
        return self.folder / site / "checkpoint"

    def cosign(self, note: Note, time: int, sites: Sequence[str] = SITES) -> Note:
        """A checkpoint with the sites' cosignatures."""
        lines = tuple(cosign(note, site, self.keys[site], time) for site in sites)
        return Note(note.text, (*note.signatures, *lines))


class Story:
    """Entries with a clock, the tree over them, and what the sites write down meanwhile."""

    def __init__(self, world: World) -> None:
        self.world, self.tree, self.now = world, Tree(), START
        self.lines: dict[str, list[Line]] = {site: [] for site in SITES}

    def time(self) -> str:
        """Some seconds later."""
        self.now += 1.25
        return said.timestamp(self.now)

    def add(self, entry: said.Entry) -> int:
        """Write an entry; returns its index."""
        raw = entry.to_bytes()
        self.world.entries.append(raw)
        self.tree.append(leaf_hash(raw))
        return len(self.tree) - 1

    def witness(self) -> None:
        """The sites cosign the log as it is, and the log records that they did."""
        head = Checkpoint(self.world.origin, len(self.tree), self.tree.root())
        note = self.world.cosign(sign_checkpoint(head, self.world.log_key), int(self.now) + 1)
        self.world.heads[head.size] = note
        self.add(said.Witnessed(time=self.time(), checkpoint=note.to_bytes().decode()))


def generate(folder: Path, size: int = 1000, *, batches: int = BATCHES) -> World:
    """A log of exactly ``size`` entries (250 at least), ledgers that agree, a release of it."""
    now = datetime.fromtimestamp(START, UTC)
    ca, ca_key = make_ca(NAME, 3650, now)
    operator, log_key = key("operator"), key("log")
    raw = make_consortium(
        NAME,
        ca,
        ca_key,
        {"Ada": operator.public_key()},
        operator,
        now,
        log_key=log_key.public_key(),
    )
    world = World(folder, read_consortium(raw), {site: key(site) for site in SITES}, log_key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "consortium.json").write_bytes(raw)
    story = Story(world)
    _found(story, raw)
    _begin(story, operator)
    model = _stages(story, size)
    statement = _end(story, model)
    if len(world.entries) != size:
        raise ValueError(f"{len(world.entries)} entries")
    _publish(world, story, batches)
    _release(world, statement)
    return world


def _found(story: Story, raw: bytes) -> None:
    """The consortium, its members, one refused stranger."""
    issued = story.world.consortium.issued_at
    story.add(
        said.ConsortiumOpened(
            time=story.time(), version=int(issued.timestamp()), sha256=sha256(raw)
        )
    )
    for site in SITES:
        story.add(said.Member(time=story.time(), site=site, act="invited"))
        story.add(
            said.Member(
                time=story.time(),
                site=site,
                act="approved",
                certificate_sha256=sha256(f"certificate of {site}".encode()),
                signing_key=public_key_hex(story.world.keys[site]),
            )
        )
    story.add(
        said.Operator(time=story.time(), act="study put on the server", subject="tavi-landmarks")
    )


def _begin(story: Story, operator: Ed25519PrivateKey) -> None:
    """Consents, one of them withdrawn and given again, and the signed study."""
    north = story.world.keys["north"]
    first = give(north, study=STUDY_SHA256, site="north", now=int(story.now))
    back = withdraw(north, study=STUDY_SHA256, site="north", now=int(story.now), earlier=first)
    again = give(north, study=STUDY_SHA256, site="north", now=int(story.now), earlier=back)
    records = [("north", first), ("north", back), ("north", again)]
    for site in ("lake", "river"):
        key_of = story.world.keys[site]
        records.append((site, give(key_of, study=STUDY_SHA256, site=site, now=int(story.now))))
    for site, record in records:
        act = "withdrawn" if record is back else "given"
        text = record_bytes(record).decode()
        story.add(
            said.Consent(time=story.time(), site=site, study=STUDY_SHA256, act=act, record=text)
        )
    signature = StudySignature(
        study=STUDY_SHA256,
        key_id=key_id(operator),
        signature=sign(operator, PURPOSE, {"study": STUDY_SHA256}),
    )
    story.add(
        said.StudyStarted(
            time=story.time(),
            study=STUDY_SHA256,
            name="tavi-landmarks",
            run=RUN,
            act="started",
            signature=signature.model_dump_json(),
            witnesses=len(SITES),
        )
    )


def _stages(story: Story, size: int) -> dict[str, str]:
    """Two teachers, pseudo-labels, a student; returns the last models."""
    models: dict[str, str] = {}
    for stage, owners in OWNERS.items():
        models[stage] = _train(story, stage, owners, rounds=12)
    _open(story, "label", "pseudolabel", 1, None, teachers=models)
    _round(story, "label", 1, SITES, None, None)
    # An entry each for opening and commit of a round, for its witnesses, for every answer; and
    # two for the end.
    each, rest = len(SITES) + 3, size - len(story.world.entries) - 3
    rounds = rest // each
    for number in range(rest - rounds * each):
        reasons = {"STR-201": 1 + number, "unknown certificate": 2}
        story.add(
            said.Refused(time=story.time(), since=said.timestamp(story.now - 60), reasons=reasons)
        )
    models["distil"] = _train(story, "distil", SITES, rounds=rounds, recipe="distil")
    return models


def _open(
    story: Story, stage: str, recipe: str, rounds: int, initial: str | None, **more: object
) -> None:
    entry = said.StageOpened(
        leaves="student",
        time=story.time(),
        study=STUDY_SHA256,
        stage=stage,
        recipe=recipe,
        rounds=rounds,
        initial_sha256=initial,
        **more,
    )
    story.add(entry)


def _train(
    story: Story, stage: str, sites: Sequence[str], *, rounds: int, recipe: str = "teach"
) -> str:
    base = sha256(weights(f"{stage} 0"))
    _open(story, stage, recipe, rounds, base)
    for number in range(1, rounds + 1):
        model = sha256(weights(f"{stage} {number}"))
        _round(story, stage, number, sites, base, model)
        base = model
    return base


def _fate(stage: str, number: int, site: str) -> tuple[str, str | None]:
    """What became of an answer: most are admitted."""
    if stage == "distil" and number % 9 == 4 and site == "river":
        return "late", None
    if stage == "distil" and number % 17 == 8 and site == "lake":
        return "refused", "STR-303"
    if stage == "teach-valve" and number == 5 and site == "north":
        return "failed", "STR-503"
    return "admitted", None


def _round(
    story: Story, stage: str, number: int, sites: Sequence[str], base: str | None, model: str | None
) -> None:
    why = f"has no case with label {stage.removeprefix('teach-')}"
    left_out = {site: why for site in SITES if site not in sites}
    story.add(
        said.RoundOpened(
            time=story.time(),
            study=STUDY_SHA256,
            stage=stage,
            round=number,
            base_sha256=base,
            invited=tuple(sites),
            left_out=left_out,
        )
    )
    counted: dict[str, said.Update] = {}
    missing: dict[str, str] = {}
    for site in sites:
        update = _answer(story, stage, number, site, base)
        if update.status == "admitted":
            counted[site] = update
        else:
            late = "no answer before the round closed"
            missing[site] = reason(update.code) if update.code else late
    totals: dict[str, int] = {}
    for update in counted.values():
        for group, cases in update.samples.items():
            totals[group] = totals.get(group, 0) + cases
    story.add(
        said.RoundCommitted(
            time=story.time(),
            study=STUDY_SHA256,
            stage=stage,
            round=number,
            order=tuple(sorted(counted)),
            totals=totals,
            model_sha256=model,
            record_sha256=sha256(f"record {stage} {number}".encode()),
            expected=tuple(sites),
            missing=missing,
        )
    )
    story.witness()


def _answer(story: Story, stage: str, number: int, site: str, base: str | None) -> said.Update:
    """One site's answer: its own ledger first, then the server's log."""
    status, code = _fate(stage, number, site)
    data = weights(f"{stage} {number} {site}")
    left = base is not None and status in {"admitted", "refused"}
    samples = {"all": 10 + SITES.index(site), stage[:6]: 4} if status == "admitted" else {}
    if left:
        moment = datetime.fromtimestamp(story.now + 0.5, UTC)
        line = Line(
            time=moment,
            kind="sent",
            study=STUDY_SHA256,
            stage=stage,
            round=number,
            message="round",
            content=sha256(data),
            bytes=len(data),
            norm=1.5,
            samples=samples or {"all": 10 + SITES.index(site)},
            metrics={"loss": 0.25},
            decision="allowed",
        )
        story.lines[site].append(line)
    entry = said.Update(
        time=story.time(),
        study=STUDY_SHA256,
        stage=stage,
        round=number,
        site=site,
        status=status,
        code=code,
        sha256=sha256(data) if left else None,
        bytes=len(data) if left else 0,
        encoding="fp32" if left else "",
        base_sha256=base if left else None,
        samples=samples,
        metrics_sha256=sha256(b"numbers"),
    )
    story.add(entry)
    return entry


def _end(story: Story, models: dict[str, str]) -> attestation.Statement:
    """The end of the run, the release and its entry."""
    world = story.world
    story.add(
        said.StudyFinished(
            time=story.time(),
            study=STUDY_SHA256,
            run=RUN,
            status="completed",
            complete_participation=False,
            models=models,
            result_sha256=sha256(b"result"),
        )
    )
    rounds = sum(b'"stage":"distil"' in raw and b'"kind":"commit"' in raw for raw in world.entries)
    files = {
        "model.safetensors": weights(f"distil {rounds}"),
        "study.json": STUDY,
        "model_card.md": b"# A model\n",
        "release.json": b"{}\n",
    }
    for name, data in files.items():
        world.release.mkdir(exist_ok=True)
        (world.release / name).write_bytes(data)
    history = tell((i, said.parse_entry(raw)) for i, raw in enumerate(world.entries))
    predicate = attestation.predicate_of(history.runs[-1], world.origin)
    statement = attestation.make_statement({n: sha256(d) for n, d in files.items()}, predicate)
    story.add(
        said.Release(
            time=story.time(),
            study=STUDY_SHA256,
            name="tavi-landmarks-1",
            statement_sha256=sha256(statement.to_bytes()),
            student_sha256=models["distil"],
        )
    )
    return statement


def _publish(world: World, story: Story, batches: int) -> None:
    """The log on disk, cosigned; the ledgers; what every site kept."""
    log = Log(world.log, world.folder / "log.guard", world.origin, world.log_key)
    step = -(-len(world.entries) // batches)
    for start in range(0, len(world.entries), step):
        log.append(world.entries[start : start + step])
    _, note = published(log)
    log.cosigned(world.cosign(note, int(story.now) + 5))
    for site, lines in story.lines.items():
        with Ledger(world.ledger(site), disk=QuickDisk()) as ledger:
            for line in lines:
                ledger.append(line)
        kept = max(
            size for size in world.heads if size < len(world.entries) - SITES.index(site) * 60
        )
        world.seen(site).write_bytes(world.heads[kept].to_bytes())


def _release(world: World, statement: attestation.Statement) -> None:
    """The three files of the release's proof."""
    log = Log(world.log, world.folder / "log.guard", world.origin, world.log_key)
    head, note = published(log)
    index = len(world.entries) - 1
    proof = LogFolder(world.log, head.size).proof(index, note)
    parts = {
        attestation.STATEMENT_FILE: statement.to_bytes(),
        attestation.ENTRY_FILE: world.entries[index],
        attestation.PROOF_FILE: proof.to_bytes(),
    }
    for name, data in parts.items():
        path = world.release / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def tiles_in_memory(entries: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Every tile and bundle of a log of these entries, as files."""
    tree = Tree(map(leaf_hash, entries))
    for level, index, width in tiles_of(len(entries)):
        yield tile_path(level, index, width), tile(tree, level, index, width)
        if level == 0:
            first = index * WIDTH
            yield tile_path(None, index, width), bundle(entries[first : first + width])


def files_in_memory(
    world: World, entries: Sequence[bytes], log_key: Ed25519PrivateKey, *, origin: str | None = None
) -> dict[str, bytes]:
    """A whole log of these entries under one key, cosigned by nobody."""
    tree = Tree(map(leaf_hash, entries))
    head = Checkpoint(origin or world.origin, len(entries), tree.root())
    return {
        "checkpoint": sign_checkpoint(head, log_key).to_bytes(),
        **dict(tiles_in_memory(entries)),
    }


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
