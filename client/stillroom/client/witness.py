"""The witness: this site's own memory of the consortium's log, and its word that it was not rewritten.

Before a task is handed to the runner, the site looks at the log's checkpoint. It must be signed by the
log's key as ``consortium.json`` names it, and it must continue the checkpoint this site kept last:
that is recomputed here from the log's tiles. Only then is the new one kept, durably, and cosigned.

A checkpoint that is older, of another history or unsigned stops the site: nothing is done for that
server any more, the ledger says so, and what it showed is kept as evidence. A person has to look;
removing ``witness/stopped`` in ``courier_state`` is their word that they have.

Every entry about an update of this site becomes a receipt: the entry, and a proof (C2SP tlog-proof)
that it is in the log, checked here and checkable by anybody later, without the server.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import override

from stillroom.client.pinning import pinned
from stillroom.client.receipts import Receipts
from stillroom.common.errors import ContractError, StillroomError, TrustError
from stillroom.common.log_entries import Update, parse_entry
from stillroom.common.log_identity import log_verifier
from stillroom.common.tensorfile import write_durably
from stillroom.common.tlog.checkpoint import Checkpoint, cosign, open_checkpoint
from stillroom.common.tlog.folder import CHECKPOINT, LogFolder
from stillroom.common.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion
from stillroom.common.tlog.note import Note, Verifier
from stillroom.common.tlog.proof import Proof

log = logging.getLogger(__name__)

FOLDER, STOPPED, SHOWN = "witness", "stopped", "shown"
SOON_S, LATER_S = 3.0, 300.0
"""When an idle courier looks at the log again: after an update has left; otherwise."""


class Line(Protocol):
    """The way to the log."""

    def published(self, path: str) -> bytes | None:
        """A file of the log; None where there is none of that name."""
        ...

    def vouch(self, note: bytes) -> bool:
        """Hand in a cosigned checkpoint; False when the server did not take it."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteLog(LogFolder):
    """A log's tiles over a line; ``folder`` has no meaning."""

    line: Line
    read: dict[str, bytes] = field(default_factory=dict)

    @override
    def data(self, path: str) -> bytes:
        if path not in self.read:
            found = self.line.published(path)
            if found is None:
                raise FileNotFoundError(path)
            self.read[path] = found
        return self.read[path]


@dataclass(slots=True)
class Witness:
    """One site's eyes on the log.

    Attributes:
        site: Its name.
        consortium: ``consortium.json``.
        state: The courier's folder.
        line: The way to the log.
        key: This site's signing key; None where the courier must not have it: then it looks, and
            vouches for nothing.
        note: Told once when the site stops, for the ledger.
        clock: Seconds since the epoch.
    """

    site: str
    consortium: Path
    state: Path
    line: Line
    key: Ed25519PrivateKey | None
    note: Callable[[], None]
    clock: Callable[[], float] = time.time
    _looked: float = field(default=float("-inf"), init=False)
    _sent: bool = field(default=False, init=False)

    @property
    def folder(self) -> Path:
        """What this site keeps of the log."""
        return self.state / FOLDER

    def look(self) -> None:
        """Look at the log now.

        Raises:
            TrustError: STR-222, it does not hold, now or when this site looked before.
            Stopped: While waiting for the server.
        """
        if (self.folder / STOPPED).exists():
            raise _stopped("It was found broken before.")
        consortium = pinned(self.consortium)
        if consortium.log_key_hex is None:
            return
        verifier = log_verifier(consortium)
        self._looked = time.monotonic()
        data = self.line.published(CHECKPOINT)
        try:
            new, note = open_checkpoint(data or b"", verifier)
        except ValueError:
            self._stop(data, "It shows no checkpoint that the log's key has signed.")
        kept = self._kept(verifier)
        # A log that has just grown is about to grow again: a round's end, a study's.
        self._sent = kept is None or kept[0] != new
        if kept is None or kept[0] != new:
            self._follow(None if kept is None else kept[0], new, note)
            # Kept before anybody hears of it: what this site has vouched for, it remembers.
            self._keep(note)
        elif self._has_vouched(kept[1]):
            return
        self._vouch(note)

    def look_when_idle(self) -> None:
        """Look, if there may be news: a receipt soon after an update, the head from time to time."""
        if time.monotonic() - self._looked >= (SOON_S if self._sent else LATER_S):
            self.look()

    def expect(self) -> None:
        """An update has left; the log will have an entry about it."""
        self._sent = True

    def _follow(self, old: Checkpoint | None, new: Checkpoint, note: Note) -> None:
        """Prove that ``new`` continues ``old``, and take receipts for what is new."""
        shown = note.to_bytes()
        if old is None or old.size == 0:
            # The first look: nothing to compare with. From here on it is held to this.
            return
        if new.size <= old.size:
            self._stop(shown, "It shows fewer entries than before, or others in their place.")
        log_at = RemoteLog(Path(), new.size, self.line)
        try:
            path = log_at.consistency(old.size)
            holds = verify_consistency(old.size, old.root, new.size, new.root, path)
        except ValueError:
            holds = False
        if not holds:
            self._stop(shown, "It does not continue what this site has seen.")
        try:
            self._take_receipts(log_at, old, new, note)
        except (ValueError, ContractError):
            self._stop(shown, "Its entries are not those of its checkpoint.")

    def _take_receipts(
        self, log_at: RemoteLog, old: Checkpoint, new: Checkpoint, note: Note
    ) -> None:
        receipts = Receipts(self.state)
        mark = f'"site":"{self.site}"'.encode()
        for index, raw in log_at.entries(old.size):
            if mark not in raw:
                continue
            entry = parse_entry(raw)
            if not isinstance(entry, Update) or entry.site != self.site or entry.sha256 is None:
                continue
            path = tuple(log_at.inclusion(index))
            if not verify_inclusion(leaf_hash(raw), index, new.size, path, new.root):
                raise ValueError("an entry is not in the log")
            receipts.keep(entry.sha256, raw, Proof(index, path, note))
            log.info("witness.receipt", extra={"stage": entry.stage, "round": entry.round})

    def _kept(self, verifier: Verifier) -> tuple[Checkpoint, Note] | None:
        path = self.folder / CHECKPOINT
        try:
            return open_checkpoint(path.read_bytes(), verifier)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _stopped("What this site kept of it is damaged.") from error

    def _keep(self, note: Note) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / CHECKPOINT, note.to_bytes())

    def _has_vouched(self, note: Note) -> bool:
        return self.key is None or any(s.name == self.site for s in note.signatures)

    def _vouch(self, note: Note) -> None:
        if self.key is None:
            return
        own = [s for s in note.signatures if s.name != self.site][:1]
        mine = cosign(note, self.site, self.key, int(self.clock()))
        vouched = Note(note.text, (*own, mine))
        try:
            if self.line.vouch(vouched.to_bytes()):
                self._keep(vouched)
                return
        except StillroomError as error:
            if error.code in {"STR-201", "STR-206", "STR-506"}:
                raise
        # Refusing a witness is no proof of anything; others will say what they have seen.
        log.warning("witness.not_taken")

    def _stop(self, shown: bytes | None, why: str) -> NoReturn:
        """Keep the evidence, write it into the ledger, and do nothing for this server any more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / f"{SHOWN}-{int(self.clock())}", shown or b"")
        write_durably(self.folder / STOPPED, f"{why}\n".encode())
        self.note()
        log.error("witness.stopped", extra={"code": "STR-222", "note": why})
        raise _stopped(why)


def _stopped(why: str) -> TrustError:
    return TrustError(
        f"The server's log does not hold. {why} This site does nothing for it any more.",
        fix="Keep courier_state/witness as evidence and telephone other sites. When it is settled, "
        "remove courier_state/witness/stopped; docs/hospital-it/witness.md.",
        code="STR-222",
    )
