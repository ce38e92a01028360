"""One file that proves an entry is in the log (C2SP tlog-proof): index, audit path, checkpoint."""

import base64
import binascii
import re
from dataclasses import dataclass

from stillroom.common.tlog.checkpoint import Checkpoint, open_checkpoint
from stillroom.common.tlog.merkle import Hash, verify_inclusion
from stillroom.common.tlog.note import Note, Verifier, parse_note

HEADER = "c2sp.org/tlog-proof@v1"
MOST_HASHES = 63
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Proof:
    """An inclusion proof.

    Attributes:
        index: Of the entry, from 0.
        path: From the leaf's sibling up.
        note: The checkpoint, with every signature it had.
    """

    index: int
    path: tuple[Hash, ...]
    note: Note

    def to_bytes(self) -> bytes:
        """The file; its name ends in ``.tlog-proof``."""
        lines = [HEADER, f"index {self.index}", *(_base64(item) for item in self.path), "", ""]
        return "\n".join(lines).encode("ascii") + self.note.to_bytes()

    def verify(self, leaf: Hash, log: Verifier) -> Checkpoint:
        """Prove that ``leaf`` is in the log.

        Returns:
            The checkpoint it was proven against.

        Raises:
            ValueError: It is not, or the log did not sign the checkpoint.
        """
        checkpoint, _ = open_checkpoint(self.note.to_bytes(), log)
        size, root = checkpoint.size, checkpoint.root
        if not verify_inclusion(leaf, self.index, size, self.path, root):
            raise ValueError("the entry is not where the proof says")
        return checkpoint


def parse_proof(data: bytes) -> Proof:
    """Read a proof.

    Raises:
        ValueError: It is not one. Extra data, which nothing authenticates, is refused too.
    """
    head, gap, rest = data.partition(b"\n\n")
    lines = head.decode("ascii").split("\n")
    match = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
    if not gap or lines[0] != HEADER or match is None or len(lines) > 2 + MOST_HASHES:
        raise ValueError("not a proof")
    try:
        path = tuple(base64.b64decode(line, validate=True) for line in lines[2:])
    except binascii.Error as error:
        raise ValueError("a hash is not base64") from error
    proof = Proof(int(match[1]), path, parse_note(rest))
    if any(len(item) != 32 for item in path) or proof.to_bytes() != data:
        raise ValueError("not a proof as it is written")
    return proof


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
