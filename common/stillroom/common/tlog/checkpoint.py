"""Checkpoints (C2SP tlog-checkpoint) and cosignatures (C2SP tlog-cosignature), both Ed25519.

A checkpoint says: the log named so had this many entries with this root. A cosignature says: at
this time I saw it, and it continued everything I had seen before.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.tlog.merkle import Hash
from stillroom.common.tlog.note import (
    COSIGNATURE,
    ED25519,
    Note,
    Signature,
    Verifier,
    key_id,
    known,
    parse_note,
)

MOST_ENTRIES = 1 << 62
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head.

    Attributes:
        origin: The log's name, a URL without scheme.
        size: Entries.
        root: 32 bytes.
    """

    origin: str
    size: int
    root: Hash

    def text(self) -> str:
        """The body of the note."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a note's body. Extension lines are refused: nobody could audit them.

        Raises:
            ValueError: It is not a checkpoint of ours.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0] or not _DECIMAL.fullmatch(lines[1]):
            raise ValueError("not a checkpoint")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except binascii.Error as error:
            raise ValueError("the root is not base64") from error
        found = cls(lines[0], int(lines[1]), root)
        if len(root) != 32 or found.size > MOST_ENTRIES or found.text() != text:
            raise ValueError("not a checkpoint as it is written")
        return found


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What a witness said.

    Attributes:
        name: Of the witness.
        time: Seconds since the epoch.
    """

    name: str
    time: int


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> Note:
    """The log's own signature; the key's name is the origin."""
    text, public = checkpoint.text(), key.public_key().public_bytes_raw()
    value = key.sign(text.encode("utf-8"))
    identity = key_id(checkpoint.origin, ED25519, public)
    return Note(text, (Signature(checkpoint.origin, identity, value),))


def cosign(note: Note, name: str, key: Ed25519PrivateKey, time: int) -> Signature:
    """A witness's signature line over a checkpoint. The caller has checked consistency first."""
    value = key.sign(_cosigned_message(note.text, time))
    identity = key_id(name, COSIGNATURE, key.public_key().public_bytes_raw())
    return Signature(name, identity, time.to_bytes(8, "big") + value)


def open_checkpoint(data: bytes, log: Verifier) -> tuple[Checkpoint, Note]:
    """A checkpoint that the log has signed.

    Raises:
        ValueError: It is not one, of another log, or its signature does not hold.
    """
    note = parse_note(data)
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != log.name:
        raise ValueError("a checkpoint of another log")
    found = known(note, [log])
    if not found or not log.holds(found[0][1].value, note.text.encode("utf-8")):
        raise ValueError("the log's signature does not hold")
    return checkpoint, note


def cosignatures(note: Note, witnesses: Sequence[Verifier]) -> tuple[list[Cosigned], list[str]]:
    """Who cosigned a checkpoint.

    Returns:
        Witnesses whose cosignature holds, and names of those whose does not.
    """
    good, bad = [], []
    for witness, signature in known(note, witnesses):
        time = int.from_bytes(signature.value[:8], "big")
        message = _cosigned_message(note.text, time)
        if len(signature.value) == 72 and witness.holds(signature.value[8:], message):
            good.append(Cosigned(witness.name, time))
        else:
            bad.append(witness.name)
    return good, bad


def _cosigned_message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
