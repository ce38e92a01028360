"""Notes, checkpoints, cosignatures and proofs: published vectors, round trips, and forgeries."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.tlog.checkpoint import (
    Checkpoint,
    cosign,
    cosignatures,
    open_checkpoint,
    sign,
)
from stillroom.common.tlog.merkle import Tree, leaf_hash
from stillroom.common.tlog.note import COSIGNATURE, ED25519, Note, Verifier, known, parse_note
from stillroom.common.tlog.proof import Proof, parse_proof

ORIGIN, WITNESS = "log.example.org/tavi", "north.example.org"
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
LOG = Verifier(ORIGIN, ED25519, LOG_KEY.public_key().public_bytes_raw())
NORTH = Verifier(WITNESS, COSIGNATURE, WITNESS_KEY.public_key().public_bytes_raw())
TREE = Tree(leaf_hash(str(number).encode()) for number in range(70))


def head(size: int = 70) -> Checkpoint:
    return Checkpoint(ORIGIN, size, TREE.root(size))


def cosigned(time: int = 1_800_000_000) -> Note:
    note = sign(head(), LOG_KEY)
    return Note(note.text, (*note.signatures, cosign(note, WITNESS, WITNESS_KEY, time)))


# Example notes published with Go's note package and with the C2SP specification's test keys.
PETER = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdn"
    "gotpRZb6KE6RyyBwJnAM=\n"
)
FOO = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3"
    "mFXmRKuwHjG1Yu72IneyaQM=\n"
)
PUBLISHED = [
    ("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", PETER),
    ("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", FOO),
]


@pytest.mark.parametrize(("key", "text"), PUBLISHED)
def test_published_notes_verify(key: str, text: str) -> None:
    """Notes that others signed verify here, and their keys read and write the same."""
    verifier, note = Verifier.decode(key), parse_note(text.encode())

    ((_, signature),) = known(note, [verifier])

    assert verifier.holds(signature.value, note.text.encode())
    assert verifier.encode() == key
    assert note.to_bytes() == text.encode()


def test_published_checkpoint_reads() -> None:
    """The example of the C2SP checkpoint specification is read as it is written."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

    found = Checkpoint.parse(text)

    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert found.text() == text


def test_checkpoint_and_cosignature() -> None:
    """The log signs, a witness cosigns, and a reader that trusts both learns so."""
    checkpoint, note = open_checkpoint(cosigned().to_bytes(), LOG)

    good, bad = cosignatures(note, [NORTH])

    assert checkpoint == head()
    assert [(item.name, item.time) for item in good] == [(WITNESS, 1_800_000_000)]
    assert bad == []


def test_unknown_signatures_are_ignored() -> None:
    """A reader that does not know the witness reads the checkpoint all the same."""
    stranger = Verifier("river.example.org", COSIGNATURE, NORTH.public_key)
    assert cosignatures(cosigned(), [stranger]) == ([], [])


@given(st.data())
def test_no_byte_of_a_checkpoint_can_change(data: st.DataObject) -> None:
    """A flipped bit anywhere makes the checkpoint, or the cosignature in it, invalid."""
    raw = bytearray(cosigned().to_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))

    try:
        _, note = open_checkpoint(bytes(raw), LOG)
        good, _ = cosignatures(note, [NORTH])
    except ValueError:
        return
    assert not good


def test_a_cosignature_cannot_be_moved() -> None:
    """A witness's line under another checkpoint, or with another time, does not hold."""
    line = cosigned().signatures[1]
    other = sign(head(69), LOG_KEY)
    later = type(line)(line.name, line.key_id, (1_800_000_001).to_bytes(8, "big") + line.value[8:])

    moved = Note(other.text, (*other.signatures, line))
    retimed = Note(cosigned().text, (cosigned().signatures[0], later))

    assert cosignatures(moved, [NORTH]) == ([], [WITNESS])
    assert cosignatures(retimed, [NORTH]) == ([], [WITNESS])


def test_another_key_of_that_name_is_refused() -> None:
    """A checkpoint signed by a key the reader does not trust is no checkpoint."""
    forged = sign(head(), Ed25519PrivateKey.generate())
    with pytest.raises(ValueError, match="signature does not hold"):
        open_checkpoint(forged.to_bytes(), LOG)


def test_a_key_signs_once() -> None:
    """Two lines of one known key are refused: which of them counts would be anybody's guess."""
    note = cosigned()
    doubled = Note(note.text, (*note.signatures, note.signatures[0]))
    with pytest.raises(ValueError, match="twice"):
        open_checkpoint(doubled.to_bytes(), LOG)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        "origin\n01\n" + "A" * 43 + "=\n",
        "origin\n-1\n" + "A" * 43 + "=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\n" + "A" * 42 + "B=\n",
        "\n1\n" + "A" * 43 + "=\n",
        "origin\n1\n" + "A" * 43 + "=\nextension\n",
    ],
)
def test_other_texts_are_no_checkpoints(text: str) -> None:
    """One spelling, three lines."""
    with pytest.raises(ValueError, match=r".+"):
        Checkpoint.parse(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    """Nothing but ValueError comes out of the reader, and what it takes it writes back the same."""
    try:
        note = parse_note(data)
    except ValueError:
        return
    assert note.to_bytes() == data


@given(st.integers(0, 69))
def test_proof(index: int) -> None:
    """An entry's proof verifies offline, in less than 4 KiB; another entry's leaf does not."""
    proof = Proof(index, tuple(TREE.inclusion(index)), cosigned())
    raw = proof.to_bytes()

    assert parse_proof(raw).verify(leaf_hash(str(index).encode()), LOG) == head()
    assert len(raw) <= 4096
    with pytest.raises(ValueError, match="not where the proof says"):
        parse_proof(raw).verify(leaf_hash(b"x"), LOG)


@given(st.data())
def test_no_byte_of_a_proof_can_change(data: st.DataObject) -> None:
    """A flipped bit anywhere outside the cosignature makes the proof invalid."""
    note = sign(head(), LOG_KEY)
    raw = bytearray(Proof(5, tuple(TREE.inclusion(5)), note).to_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(ValueError, match=r".+"):
        parse_proof(bytes(raw)).verify(leaf_hash(b"5"), LOG)
