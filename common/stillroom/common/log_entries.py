"""What the log says: every kind of entry, and the one spelling of each.

An entry is canonical JSON (``common.canonical``) of one of these models. None has a place for a
patient-derived value: names of sites and people who act, digests, counts, sizes and codes.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import ContractError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=64)]
Count = Annotated[int, Field(ge=0)]
Code = Annotated[str, Field(pattern=r"^STR-[0-9]{3}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""UTC, milliseconds, RFC 3339."""


class Entry(BaseModel):
    """What every entry has; a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time: Time
    """When the server wrote it down, by the server's clock."""

    def to_bytes(self) -> bytes:
        """The entry as it stands in the log."""
        return canonical_bytes(self.model_dump(mode="json"))


class ConsortiumOpened(Entry):
    """The consortium's description, new or changed: its operators, its CA."""

    kind: Literal["consortium"] = "consortium"
    version: Count
    """Its time of issue, seconds since the epoch: a later description has a later one."""
    sha256: Digest
    """Of consortium.json."""


class Member(Entry):
    """A site was invited, approved, renewed or revoked, or left by itself."""

    kind: Literal["member"] = "member"
    site: Name
    """Its name, as in its certificate."""
    act: Literal["invited", "approved", "renewed", "revoked", "left"]
    """What happened to it."""
    certificate_sha256: Digest | None = None
    """Of the certificate it has from now on."""
    signing_key: Digest | None = None
    """Raw Ed25519 public key, hexadecimal: consents and cosignatures are verified with it."""


class Consent(Entry):
    """A site's signed word on a study reached the server."""

    kind: Literal["consent"] = "consent"
    site: Name
    """Whose word it is."""
    study: Digest
    """Digest of the study."""
    act: Literal["given", "withdrawn"]
    """What it says."""
    record: Annotated[str, Field(max_length=4096)]
    """The signed record itself, so that anybody can verify it."""


class StudyStarted(Entry):
    """A run of a study began, or went on after a pause or a crash."""

    kind: Literal["study"] = "study"
    study: Digest
    """Digest of the study."""
    name: Name
    """The study's name, for people."""
    run: Name
    """The run's name: a study may be run more than once."""
    act: Literal["started", "resumed", "stopped"]
    """What happened to the run."""
    signature: Annotated[str, Field(max_length=4096)] = ""
    """``study.sig``: the operator's signature over the digest."""
    witnesses: Count = 0
    """How many sites must have cosigned the log before what it says counts, as the study demands."""


class StageOpened(Entry):
    """A stage began."""

    kind: Literal["stage"] = "stage"
    study: Digest
    """Digest of the study."""
    stage: Name
    """Its name in the study."""
    recipe: Name
    """What it does; docs/reference/recipes.md lists them."""
    rounds: Count
    """How many it will have."""
    initial_sha256: Digest | None = None
    """Of the weights it starts from; None for a stage that exchanges none."""
    leaves: Name | None = None
    """What its last model is to later stages and to a release, e.g. ``teacher`` or ``student``."""
    teachers: dict[Name, Digest] = Field(default_factory=dict)
    """Earlier stage -> digest of its last model, which this stage learns from or builds on."""


class RoundOpened(Entry):
    """Sites were asked."""

    kind: Literal["round"] = "round"
    study: Digest
    """Digest of the study."""
    stage: Name
    """Name of the stage."""
    round: Count
    """From 1."""
    base_sha256: Digest | None = None
    """Of the global model that was sent."""
    invited: tuple[Name, ...]
    """Sites that were asked."""
    left_out: dict[Name, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)
    """Site -> why it was not asked: every member that has consented is here or among the invited."""


class Update(Entry):
    """What became of one site's answer."""

    kind: Literal["update"] = "update"
    study: Digest
    """Digest of the study."""
    stage: Name
    """Name of the stage."""
    round: Count
    """From 1."""
    site: Name
    """Whose answer it is."""
    status: Literal["admitted", "refused", "failed", "late"]
    """``admitted`` counts; ``refused`` broke a rule; ``failed``: the site said it could not; ``late``."""
    code: Code | None = None
    """Why it does not count."""
    sha256: Digest | None = None
    """Of the file that left the site."""
    bytes: Count = 0
    """Of that file."""
    encoding: Name = ""
    """How its numbers are written."""
    base_sha256: Digest | None = None
    """Of the model it was made from."""
    samples: dict[str, Count] = Field(default_factory=dict)
    """Cases per parameter group."""
    counts: dict[str, Count] = Field(default_factory=dict)
    """Of a round of labelling: scans per label and verdict. Small ones were made 0 at the site."""
    metrics_sha256: Digest | None = None
    """Of the canonical JSON of the numbers that came with it; the numbers are in the round's record."""


class RoundCommitted(Entry):
    """A round counts: these updates, in this order, gave this model."""

    kind: Literal["commit"] = "commit"
    study: Digest
    """Digest of the study."""
    stage: Name
    """Name of the stage."""
    round: Count
    """From 1."""
    order: tuple[Name, ...]
    """Sites in the order in which they were summed."""
    totals: dict[str, Count] = Field(default_factory=dict)
    """Cases per group over all of them."""
    model_sha256: Digest | None = None
    """Of the new global model; None in a stage that exchanges no weights."""
    record_sha256: Digest
    """Of the round's record, ``round-<stage>-<number>.json``."""
    expected: tuple[Name, ...]
    """Sites whose work belongs in this round."""
    missing: dict[Name, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)
    """Expected, and not counted: why."""
    epsilon: float | None = None
    """Spent so far in this stage where the study asks for differential privacy."""


class Scored(Entry):
    """Sites scored a model on cases of their own."""

    kind: Literal["score"] = "score"
    study: Digest
    stage: Name
    round: Count
    model_sha256: Digest
    sites: tuple[Name, ...]
    """Who did; the numbers are in the round's record and in result.json."""
    missing: dict[Name, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)
    """Asked, and gave none: why."""
    scores_sha256: Digest
    """Of the canonical JSON of the numbers, by site."""


class StudyFinished(Entry):
    """A run ended."""

    kind: Literal["finish"] = "finish"
    study: Digest
    """Digest of the study."""
    run: Name
    """The run's name."""
    status: Literal["completed", "failed"]
    """How it ended."""
    code: Code | None = None
    """Why it failed."""
    complete_participation: bool
    """Whether everybody who was expected counted in every round."""
    models: dict[Name, Digest] = Field(default_factory=dict)
    """Stage -> digest of its last model."""
    result_sha256: Digest
    """Of result.json."""


class Release(Entry):
    """A release was made."""

    kind: Literal["release"] = "release"
    study: Digest
    """Digest of the study."""
    name: Name
    """The release's name."""
    statement_sha256: Digest
    """Of its in-toto statement."""
    student_sha256: Digest
    """Of ``model.safetensors``."""


class Witnessed(Entry):
    """Sites cosigned a checkpoint: what came before it can be rewritten only with their keys too."""

    kind: Literal["witness"] = "witness"
    checkpoint: Annotated[str, Field(max_length=16384)]
    """The signed note (C2SP tlog-checkpoint) with the cosignatures it had gathered."""


class Operator(Entry):
    """An operator did something that no other entry says."""

    kind: Literal["operator"] = "operator"
    act: Annotated[str, Field(max_length=80)]
    """What was done."""
    subject: Annotated[str, Field(max_length=120)] = ""
    """To what."""


class Refused(Entry):
    """Connections and requests that the edge refused since the last such entry, by reason."""

    kind: Literal["refused"] = "refused"
    since: Time
    """Time of the entry before, or of the server's start."""
    reasons: dict[Name, Count]
    """Reason -> how often."""


AnyEntry = Annotated[
    ConsortiumOpened
    | Member
    | Consent
    | StudyStarted
    | StageOpened
    | RoundOpened
    | Update
    | RoundCommitted
    | Scored
    | StudyFinished
    | Release
    | Witnessed
    | Operator
    | Refused,
    Field(discriminator="kind"),
]
UNSTAMPED = "1970-01-01T00:00:00.000Z"
"""Time of an entry that is not in the log yet: it is stamped while nobody else can append."""
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyEntry)


def parse_entry(data: bytes) -> Entry:
    """Read an entry; it must be spelt exactly as ``Entry.to_bytes`` would.

    Raises:
        ContractError: STR-300, it is not one of ours.
    """
    try:
        entry: Entry = _ADAPTER.validate_json(data)
    except ValidationError as error:
        raise _broken() from error
    if entry.to_bytes() != data:
        raise _broken()
    return entry


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of an entry."""
    return dict(_ADAPTER.json_schema())


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as an entry writes them."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _broken() -> ContractError:
    return ContractError(
        "An entry of the log is not one of ours.",
        fix="Check that log and program are of one release.",
    )
