"""The Merkle tree of a log: hashes, roots and proofs (RFC 6962 section 2.1, RFC 9162 section 2.1).

Pure. ``verify_*`` are written from the RFC's algorithms for verifiers and share no code with those
that make proofs, so that an error in one does not hide in the other.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol

Hash = bytes
"""32 bytes."""

EMPTY = sha256(b"").digest()
"""Root of a tree without leaves."""


def leaf_hash(entry: bytes) -> Hash:
    """Hash of one entry: SHA-256(0x00 || entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class Subtrees(Protocol):
    """Where the hashes of complete subtrees are looked up: in memory or in tiles on disk."""

    def complete(self, level: int, index: int) -> Hash:
        """Hash of the entries from ``index * 2**level`` to ``(index + 1) * 2**level``."""
        ...


def root_of(subtrees: Subtrees, size: int) -> Hash:
    """Root of the first ``size`` entries; two hashes at most per bit of ``size``."""
    return _range(subtrees, 0, size) if size else EMPTY


def inclusion_path(subtrees: Subtrees, index: int, size: int) -> list[Hash]:
    """The audit path of entry ``index`` in the first ``size`` entries, leaf's sibling first.

    Raises:
        IndexError: There is no such entry.
    """
    if not 0 <= index < size:
        raise IndexError("no such entry")
    return _path(subtrees, index, 0, size)


def consistency_path(subtrees: Subtrees, old: int, new: int) -> list[Hash]:
    """Proof that the first ``old`` entries are a prefix of the first ``new`` ones.

    Raises:
        IndexError: Not ``0 < old <= new``.
    """
    if not 0 < old <= new:
        raise IndexError("no such sizes")
    return _subproof(subtrees, old, 0, new, whole=True)


class Tree:
    """A growing tree in memory.

    ``_levels[k][i]`` is the hash of the entries from ``i * 2**k`` to ``(i + 1) * 2**k``. An entry
    costs two hashes on average.
    """

    def __init__(self, leaves: Iterable[Hash] = ()) -> None:
        self._levels: list[list[Hash]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: Hash) -> None:
        """Add the hash of an entry."""
        self._levels[0].append(leaf)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            left, right = self._levels[level][-2:]
            self._levels[level + 1].append(node_hash(left, right))
            level += 1

    def complete(self, level: int, index: int) -> Hash:
        """As ``Subtrees.complete``."""
        return self._levels[level][index]

    def root(self, size: int | None = None) -> Hash:
        """Root of the first ``size`` entries; of all when None."""
        return root_of(self, len(self) if size is None else size)

    def inclusion(self, index: int, size: int | None = None) -> list[Hash]:
        """As ``inclusion_path``; in the whole tree when ``size`` is None."""
        return inclusion_path(self, index, self._within(size))

    def consistency(self, old: int, new: int | None = None) -> list[Hash]:
        """As ``consistency_path``; to the whole tree when ``new`` is None."""
        return consistency_path(self, old, self._within(new))

    def _within(self, size: int | None) -> int:
        size = len(self) if size is None else size
        if size > len(self):
            raise IndexError("no such size")
        return size


def _range(subtrees: Subtrees, start: int, end: int) -> Hash:
    """Merkle tree hash of entries ``start`` to ``end``; ``start`` is a multiple of its split."""
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return subtrees.complete(level, start >> level)
    split = start + _split(count)
    return node_hash(_range(subtrees, start, split), _range(subtrees, split, end))


def _path(subtrees: Subtrees, index: int, start: int, end: int) -> list[Hash]:
    if end - start == 1:
        return []
    split = start + _split(end - start)
    if index < split:
        return [*_path(subtrees, index, start, split), _range(subtrees, split, end)]
    return [*_path(subtrees, index, split, end), _range(subtrees, start, split)]


def _subproof(subtrees: Subtrees, old: int, start: int, end: int, *, whole: bool) -> list[Hash]:
    """RFC 6962 section 2.1.2; ``old`` is absolute, ``whole`` says that the old tree starts here."""
    if old == end:
        return [] if whole else [_range(subtrees, start, end)]
    split = start + _split(end - start)
    if old <= split:
        rest = _range(subtrees, split, end)
        return [*_subproof(subtrees, old, start, split, whole=whole), rest]
    left = _range(subtrees, start, split)
    return [*_subproof(subtrees, old, split, end, whole=False), left]


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def verify_inclusion(leaf: Hash, index: int, size: int, path: Sequence[Hash], root: Hash) -> bool:
    """Whether ``path`` proves that ``leaf`` is entry ``index`` of the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(  # two tree heads and what lies between them
    old: int, old_root: Hash, new: int, new_root: Hash, path: Sequence[Hash]
) -> bool:
    """Whether ``path`` proves that the old tree is a prefix of the new one (RFC 9162, 2.1.4.2)."""
    if old == 0:
        return old_root == EMPTY and not path and new >= 0
    if old == new:
        return old_root == new_root and not path
    if not 0 < old < new or not path:
        return False
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
