"""What sites have cosigned: one file for each, the newest checkpoint of the log that it vouched for.

A published checkpoint carries the cosignatures that it has gathered, and is replaced by the next
append. These files outlive that: a round's record, the log itself and a study's quorum of witnesses are
made of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stillroom.common.errors import ContractError
from stillroom.common.log_identity import witness
from stillroom.common.pki.names import SITE_PATTERN
from stillroom.common.tlog.checkpoint import Checkpoint, cosignatures, open_checkpoint
from stillroom.common.tlog.note import MOST_SIGNATURES, Note, Signature, parse_note
from stillroom.server.log import Log, replace

_SITE = re.compile(SITE_PATTERN)


@dataclass(frozen=True, slots=True)
class Vouched:
    """A checkpoint and who vouched for it.

    Attributes:
        checkpoint: The tree head.
        sites: Who cosigned it, sorted.
        note: The log's signature and theirs.
    """

    checkpoint: Checkpoint
    sites: tuple[str, ...]
    note: Note


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The folder of what sites have cosigned."""

    folder: Path

    def take(self, log: Log, site: str, signing_key: str, body: bytes) -> Checkpoint:
        """Keep a checkpoint that ``site`` has cosigned, and publish its signature with the head.

        Args:
            log: Whose checkpoint it must be.
            site: Who sent it, proven.
            signing_key: Its signing key, hex.
            body: The signed note.

        Raises:
            ContractError: STR-300, it is no checkpoint of ours with this site's cosignature.
        """
        try:
            checkpoint, note = open_checkpoint(body, log.verifier)
            verifier = witness(site, signing_key)
            good, _ = cosignatures(note, [verifier])
            mine, own = note.by(site, verifier.key_id), _own(note, log)
        except ValueError as error:
            raise _not_cosigned() from error
        if not good or mine is None or checkpoint.size > log.head().size:
            raise _not_cosigned()
        known = self.of(site)
        if known is None or Checkpoint.parse(known.text).size <= checkpoint.size:
            replace(self.folder / site, Note(note.text, (own, mine)).to_bytes())
        log.cosigned(Note(note.text, (own, mine)))
        return checkpoint

    def of(self, site: str) -> Note | None:
        """What a site cosigned last."""
        try:
            return parse_note((self.folder / site).read_bytes())
        except (OSError, ValueError):
            return None

    def newest(self) -> Mapping[str, Note]:
        """Site -> what it cosigned last."""
        if not self.folder.is_dir():
            return {}
        names = sorted(p.name for p in self.folder.iterdir() if _SITE.fullmatch(p.name))
        return {name: note for name in names if (note := self.of(name)) is not None}

    def since(self, size: int) -> tuple[str, ...]:
        """Sites that have vouched for the first ``size`` entries at least."""
        return tuple(
            site for site, note in self.newest().items() if Checkpoint.parse(note.text).size >= size
        )

    def best(self) -> Vouched | None:
        """The newest of the checkpoints that most sites vouched for; None before the first."""
        together: dict[str, dict[str, Signature]] = {}
        owns: dict[str, Signature] = {}
        for site, note in self.newest().items():
            owns[note.text] = note.signatures[0]
            together.setdefault(note.text, {})[site] = note.signatures[1]
        if not together:
            return None
        text = max(together, key=lambda one: (len(together[one]), Checkpoint.parse(one).size))
        # A note has 64 signatures at most; that many names vouch for it well enough.
        mine = dict(list(together[text].items())[: MOST_SIGNATURES - 1])
        note = Note(text, (owns[text], *mine.values()))
        return Vouched(Checkpoint.parse(text), tuple(mine), note)


def _own(note: Note, log: Log) -> Signature:
    found = note.by(log.origin, log.verifier.key_id)
    if found is None:
        raise ValueError("the log has not signed it")
    return found


def _not_cosigned() -> ContractError:
    return ContractError(
        "This is no checkpoint of this log with the cosignature of the site that sent it.",
        fix="Check that site.toml names the signing key that this site enrolled with.",
    )
