"""Signed notes (C2SP signed-note) with Ed25519: text that one or more keys have signed.

A signature names its key by name and a 32-bit id. An id is a hint and no proof: a signature counts
only when it verifies under a key that the reader already trusts.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ED25519, COSIGNATURE = 0x01, 0x04
"""Signature types: a note's own (signed-note) and a witness's (tlog-cosignature)."""
MOST_SIGNATURES = 64
LONGEST = 1 << 16
"""Bytes of a note; a checkpoint with 64 cosignatures has about 12 KiB."""
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME = re.compile(r"[^\s+]{1,120}")
_LINE = re.compile("\u2014 ([^\\s+]{1,120}) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line.

    Attributes:
        name: Of the key.
        key_id: Four bytes.
        value: What the key's algorithm made of the text.
    """

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """As it stands in a note, line break included."""
        return f"\u2014 {self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, none of them verified yet.

    Attributes:
        text: With its final line break.
        signatures: In order.
    """

    text: str
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """The note as a file."""
        return (self.text + "\n" + "".join(s.line() for s in self.signatures)).encode("utf-8")

    def by(self, name: str, key_id: bytes) -> Signature | None:
        """The signature of one key; None when there is none.

        Raises:
            ValueError: Two lines claim to be it.
        """
        found = [s for s in self.signatures if s.name == name and s.key_id == key_id]
        if len(found) > 1:
            raise ValueError("a key signed twice")
        return found[0] if found else None


def parse_note(data: bytes) -> Note:
    """Read a signed note.

    Raises:
        ValueError: It is not one. Quotes nothing of it.
    """
    if len(data) > LONGEST:
        raise ValueError("the note is too long")
    text = data.decode("utf-8")
    if _CONTROL.search(text):
        raise ValueError("the note holds control characters")
    body, gap, tail = text.rpartition("\n\n")
    lines = tail.split("\n")
    if not gap or not body or lines.pop() or not 1 <= len(lines) <= MOST_SIGNATURES:
        raise ValueError("the note is not a text and signatures")
    return Note(body + "\n", tuple(map(_signature, lines)))


def _signature(line: str) -> Signature:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("a signature line is not one")
    try:
        raw = base64.b64decode(match[2], validate=True)
    except binascii.Error as error:
        raise ValueError("a signature is not base64") from error
    if len(raw) < 5 or base64.b64encode(raw).decode() != match[2]:
        raise ValueError("a signature is not base64 as it is written")
    return Signature(match[1], raw[:4], raw[4:])


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """The id of a key under a name: SHA-256(name || LF || kind || key), first four bytes.

    Raises:
        ValueError: The name has a space or a plus sign, or is empty.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError("a key's name has no spaces and no plus sign")
    return sha256(name.encode("utf-8") + b"\n" + bytes([kind]) + public_key).digest()[:4]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A key one trusts, and for which kind of signature.

    Attributes:
        name: Its name.
        kind: ``ED25519`` or ``COSIGNATURE``.
        public_key: 32 bytes.
    """

    name: str
    kind: int
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes."""
        return key_id(self.name, self.kind, self.public_key)

    def encode(self) -> str:
        """As a verifier key (``name+id+base64``), the form other tools read."""
        material = base64.b64encode(bytes([self.kind]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    @classmethod
    def decode(cls, text: str) -> "Verifier":
        """Read ``encode``'s form.

        Raises:
            ValueError: It is not one, or its id is not its key's.
        """
        name, identity, material = text.split("+", 2)
        raw = base64.b64decode(material, validate=True)
        if len(raw) != 33 or raw[0] not in {ED25519, COSIGNATURE}:
            raise ValueError("not an Ed25519 verifier key")
        verifier = cls(name, raw[0], raw[1:])
        if verifier.key_id.hex() != identity:
            raise ValueError("the id is not this key's")
        return verifier

    def holds(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (64 bytes) of ``message`` is this key's."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def known(note: Note, verifiers: Sequence[Verifier]) -> list[tuple[Verifier, Signature]]:
    """The signatures of keys one knows, unverified; unknown ones are ignored, as C2SP demands.

    Raises:
        ValueError: A known key signed twice.
    """
    pairs = [(verifier, note.by(verifier.name, verifier.key_id)) for verifier in verifiers]
    return [(verifier, signature) for verifier, signature in pairs if signature is not None]
