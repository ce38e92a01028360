"""Receipts: proof that the consortium's log holds what this site's ledger says it sent.

::

    COURIER_STATE/receipts/<sha256>.json         the log's entry about the update, as it stands there
    COURIER_STATE/receipts/<sha256>.tlog-proof   C2SP tlog-proof: the entry is in the log
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stillroom.client.ledger import Line
from stillroom.common.errors import StillroomError
from stillroom.common.log_entries import Update, parse_entry
from stillroom.common.tensorfile import write_durably
from stillroom.common.tlog.merkle import leaf_hash
from stillroom.common.tlog.note import Verifier
from stillroom.common.tlog.proof import Proof, parse_proof

FOLDER = "receipts"


@dataclass(frozen=True, slots=True)
class Checked:
    """One update that left, and its receipt.

    Attributes:
        line: Its line in the ledger.
        result: ``ok``, ``missing`` or ``FAILED``.
        why: In words; of one that holds, what the log says became of the update.
        index: Of its entry in the log; None without one.
    """

    line: Line
    result: str
    why: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Receipts:
    """The folder of receipts below a courier's state."""

    state: Path

    def keep(self, sha256: str, entry: bytes, proof: Proof) -> None:
        """Keep a receipt, durably; the proof comes last, so that one that is there is whole."""
        folder = self.state / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / f"{sha256}.json", entry)
        write_durably(folder / f"{sha256}.tlog-proof", proof.to_bytes())

    def check(self, lines: Iterable[Line], site: str, log: Verifier) -> list[Checked]:
        """Hold every update of the ledger against its receipt; offline."""
        return [
            self._one(line, site, log) for line in lines if line.kind == "sent" and line.content
        ]

    def _one(self, line: Line, site: str, log: Verifier) -> Checked:
        folder = self.state / FOLDER
        try:
            raw = (folder / f"{line.content}.json").read_bytes()
            proof = parse_proof((folder / f"{line.content}.tlog-proof").read_bytes())
        except FileNotFoundError:
            return Checked(line, "missing", "no receipt yet")
        except (OSError, ValueError):
            return Checked(line, "FAILED", "the receipt cannot be read")
        try:
            proof.verify(leaf_hash(raw), log)
            entry = parse_entry(raw)
        except (ValueError, StillroomError):
            return Checked(line, "FAILED", "the proof does not hold")
        if not isinstance(entry, Update) or entry.site != site or entry.sha256 != line.content:
            return Checked(line, "FAILED", "the receipt is for something else", proof.index)
        said = (entry.study, entry.stage, entry.bytes, dict(entry.samples))
        if entry.status != "late" and said != (
            line.study, line.stage, line.bytes, dict(line.samples)
        ):  # fmt: skip
            return Checked(line, "FAILED", "the log says other things than the ledger", proof.index)
        return Checked(line, "ok", entry.status, proof.index)
