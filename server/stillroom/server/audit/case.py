"""Everything one audit looks at, decoded and put in order; checks read it and nothing else. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stillroom.common.consortium import Consortium
from stillroom.common.log_identity import witness
from stillroom.common.tlog.checkpoint import Cosigned, cosignatures
from stillroom.common.tlog.note import Note, Verifier
from stillroom.server.audit.history import History, Run
from stillroom.server.audit.ledgers import Ledger
from stillroom.server.audit.published import Contents, Files


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that somebody kept; ``data`` as it lay there."""

    name: str
    data: bytes


@dataclass(slots=True, kw_only=True)
class Told:
    """What a log tells, and ledgers to lay beside it; who signed the log is not asked.

    Attributes:
        contents: The log, as far as it could be read.
        history: What it tells.
        ledgers: Of sites.
    """

    contents: Contents
    history: History
    ledgers: list[Ledger] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Case(Told):
    """One audit.

    Attributes:
        consortium: The root of trust: CA, operators, the log's key.
        log: The log's key.
        seen: Checkpoints kept elsewhere.
        release: Files of the release; None when none was given.
        keys: Site -> signing key (hex) that the site itself told the auditor.
        quorum: How many cosignatures the auditor demands, whatever the log says of it.
        run: The one run to look at; None for all.
    """

    consortium: Consortium
    log: Verifier
    seen: list[Seen] = field(default_factory=list)
    release: Files | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    quorum: int = 0
    run: str | None = None

    def runs(self) -> list[Run]:
        """The runs to look at."""
        return [r for r in self.history.runs if self.run is None or r.started.run == self.run]

    def witnesses(self, index: int) -> list[Verifier]:
        """Whose cosignature counts just before entry ``index``; what a site told the auditor wins."""
        return [
            witness(site, self.keys.get(site, key))
            for site, key in self.history.keys_at(index).items()
        ]

    def cosigned(self, note: Note, index: int) -> tuple[list[Cosigned], list[str]]:
        """As ``cosignatures``, by the members just before ``index``; a line made twice is bad."""
        good: list[Cosigned] = []
        bad: list[str] = []
        for verifier in self.witnesses(index):
            try:
                held, broken = cosignatures(note, [verifier])
            except ValueError:
                held, broken = [], [verifier.name]
            good, bad = [*good, *held], [*bad, *broken]
        return good, bad

    def demanded(self) -> int:
        """Cosignatures that the log's studies or the auditor demand."""
        return max([self.quorum, *(s.witnesses for _, s in self.history.studies)])
