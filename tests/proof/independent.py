"""A second verifier of the log that shares no code with the first: plain Python and ``openssl``.

Written from the C2SP specifications (tlog-tiles, tlog-checkpoint, tlog-cosignature, tlog-proof,
signed-note) and RFC 6962 alone; hashes are hashlib's, signatures are OpenSSL's, and nothing of
stillroom is imported. It also runs by itself:

    python independent.py LOG NAME PUBLIC_KEY_HEX [SITE=PUBLIC_KEY_HEX ...] [--proof FILE ENTRY]
"""

import base64
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

SPKI = bytes.fromhex("302a300506032b6570032100")
"""DER of an Ed25519 public key up to its 32 bytes (RFC 8410)."""


class WrongError(Exception):
    """Something does not hold."""


def openssl_verifies(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 by the ``openssl`` program."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (where / "key").write_bytes(SPKI + public_key)
        (where / "message").write_bytes(message)
        (where / "signature").write_bytes(signature)
        done = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", where / "key",
             "-rawin", "-in", where / "message", "-sigfile", where / "signature"],
            capture_output=True, check=False,
        )  # fmt: skip
    return done.returncode == 0


def signatures(note: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A note's text, and (name, bytes after the name) of each of its signature lines."""
    cut = note.rindex(b"\n\n")
    text, lines = note[: cut + 1], note[cut + 2 :].decode().splitlines()
    found = []
    for line in lines:
        dash, name, value = line.split(" ")
        if dash != "—":
            raise WrongError("a signature line without its dash")
        found.append((name, base64.b64decode(value)))
    return text, found


def key_hash(name: str, kind: int, public_key: bytes) -> bytes:
    """signed-note: the first four bytes of a hash over name, LF, type and key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def checkpoint(note: bytes, name: str, public_key: bytes) -> tuple[int, bytes]:
    """Size and root of a checkpoint that this log signed."""
    text, lines = signatures(note)
    origin, size, root, rest = text.decode().split("\n")
    if origin != name or rest:
        raise WrongError("another log's checkpoint")
    identity = key_hash(name, 1, public_key)
    good = [v for n, v in lines if n == name and v[:4] == identity]
    if len(good) != 1 or not openssl_verifies(public_key, text, good[0][4:]):
        raise WrongError("the log's signature")
    return int(size), base64.b64decode(root)


def cosigned(note: bytes, name: str, public_key: bytes) -> int | None:
    """When this witness cosigned; None when it did not."""
    text, lines = signatures(note)
    identity = key_hash(name, 4, public_key)
    for other, value in lines:
        if other == name and value[:4] == identity:
            time = int.from_bytes(value[4:12], "big")
            message = f"cosignature/v1\ntime {time}\n".encode() + text
            if not openssl_verifies(public_key, message, value[12:]):
                raise WrongError(f"the cosignature of {name}")
            return time
    return None


def path_of(number: int, width: int) -> str:
    """tlog-tiles: the number in groups of three digits, all but the last with an x."""
    text = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        text = f"x{number % 1000:03d}/{text}"
    return text if width == 256 else f"{text}.p/{width}"


def entries(folder: Path, size: int) -> list[bytes]:
    """Every entry, from the bundles."""
    found: list[bytes] = []
    while len(found) < size:
        width = min(256, size - len(found))
        data = (folder / "tile" / "entries" / path_of(len(found) // 256, width)).read_bytes()
        at = 0
        before = len(found)
        while at < len(data):
            length = data[at] * 256 + data[at + 1]
            found.append(data[at + 2 : at + 2 + length])
            at += 2 + length
        if len(found) - before != width:
            raise WrongError("a bundle of another width")
    return found


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k << 1 < len(leaves):
        k <<= 1
    return hashlib.sha256(b"\1" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def check_tiles(folder: Path, found: list[bytes]) -> int:
    """Every hash tile against the definition of what it holds; returns how many there are."""
    count, level = 0, 0
    span = 1
    while len(found) // span:
        hashes = [tree_hash(found[i * span : (i + 1) * span]) for i in range(len(found) // span)]
        for number in range(-(-len(hashes) // 256)):
            row = hashes[256 * number : 256 * number + 256]
            data = (folder / "tile" / str(level) / path_of(number, len(row))).read_bytes()
            if data != b"".join(row):
                raise WrongError(f"tile {level}/{number}")
            count += 1
        level, span = level + 1, span * 256
    return count


def check_proof(data: bytes, entry: bytes, name: str, public_key: bytes) -> int:
    """tlog-proof: fold the path by the recursion of RFC 6962 section 2.1.1; returns the index."""
    head, note = data.split(b"\n\n", 1)
    title, index_line, *lines = head.decode().split("\n")
    if title != "c2sp.org/tlog-proof@v1":
        raise WrongError("not a proof")
    index, path = int(index_line.removeprefix("index ")), [base64.b64decode(line) for line in lines]
    size, root = checkpoint(note, name, public_key)

    def fold(at: int, count: int, rest: list[bytes]) -> bytes:
        if count == 1:
            if rest:
                raise WrongError("the path is too long")
            return hashlib.sha256(b"\0" + entry).digest()
        k = 1
        while k << 1 < count:
            k <<= 1
        if at < k:
            return hashlib.sha256(b"\1" + fold(at, k, rest[:-1]) + rest[-1]).digest()
        return hashlib.sha256(b"\1" + rest[-1] + fold(at - k, count - k, rest[:-1])).digest()

    if fold(index, size, path) != root:
        raise WrongError("the proof does not lead to the root")
    return index


def verify(
    folder: Path, name: str, public_key: bytes, witnesses: dict[str, bytes]
) -> dict[str, object]:
    """Everything about a log folder; raises WrongError over the first thing that does not hold."""
    note = (folder / "checkpoint").read_bytes()
    size, root = checkpoint(note, name, public_key)
    found = entries(folder, size)
    if tree_hash(found) != root:
        raise WrongError("the root")
    times = {site: cosigned(note, site, key) for site, key in witnesses.items()}
    return {"size": size, "root": root, "tiles": check_tiles(folder, found), "cosigned": times}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    proof = None
    if "--proof" in arguments:
        at = arguments.index("--proof")
        proof, arguments = arguments[at + 1 : at + 3], arguments[:at]
    where, log_name, log_key, *sites = arguments
    keys = {site: bytes.fromhex(text) for site, _, text in (item.partition("=") for item in sites)}
    result = verify(Path(where), log_name, bytes.fromhex(log_key), keys)
    sys.stdout.write("".join(f"{name}: {value!r}\n" for name, value in result.items()))
    if proof:
        data, entry = (Path(name).read_bytes() for name in proof)
        index = check_proof(data, entry, log_name, bytes.fromhex(log_key))
        sys.stdout.write(f"proof: entry {index}\n")
