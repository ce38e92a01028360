"""Where a log's hashes and entries lie (C2SP tlog-tiles): paths, tiles and entry bundles. Pure.

A tile holds up to 256 hashes of one level; levels are eight apart. Entries lie in bundles of 256, each
with its length before it. A full tile never changes; the rightmost of a level may be partial, and
says its width in its name.
"""

from collections.abc import Iterator, Sequence

from stillroom.common.tlog.merkle import Hash, Tree

WIDTH = 256
LONGEST_ENTRY = 0xFFFF
"""Bytes: an entry's length is written in two."""


def tile_path(level: int | None, index: int, width: int = WIDTH) -> str:
    """Path of a tile below the log; ``level`` None means the bundle of entries.

    Args:
        level: From 0.
        index: From 0, written in groups of three digits.
        width: Hashes in it; below 256 for a partial one.
    """
    digits = f"{index:03d}"
    digits = "0" * (-len(digits) % 3) + digits
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    parts = [*(f"x{group}" for group in groups[:-1]), groups[-1]]
    place = "entries" if level is None else str(level)
    return f"tile/{place}/{'/'.join(parts)}" + (f".p/{width}" if width < WIDTH else "")


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Every tile of a tree of ``size`` entries: level, index, width; none is empty."""
    level, count = 0, size
    while count:
        for index in range(count // WIDTH):
            yield level, index, WIDTH
        if count % WIDTH:
            yield level, count // WIDTH, count % WIDTH
        level, count = level + 1, count // WIDTH


def tile(tree: Tree, level: int, index: int, width: int) -> bytes:
    """The bytes of a tile."""
    first = index * WIDTH
    return b"".join(tree.complete(8 * level, at) for at in range(first, first + width))


def hashes(data: bytes) -> list[Hash]:
    """The hashes in a tile.

    Raises:
        ValueError: Its length is none of a tile's.
    """
    if not data or len(data) % 32 or len(data) > 32 * WIDTH:
        raise ValueError("not a tile")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def bundle(entries: Sequence[bytes]) -> bytes:
    """Up to 256 entries as a bundle.

    Raises:
        ValueError: An entry is longer than 65 535 bytes.
    """
    if any(len(entry) > LONGEST_ENTRY for entry in entries):
        raise ValueError("an entry is too long")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unbundle(data: bytes) -> list[bytes]:
    """The entries in a bundle.

    Raises:
        ValueError: It ends in the middle of an entry, or holds more than 256.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data) or len(entries) == WIDTH:
            raise ValueError("not a bundle of entries")
        entries.append(data[at + 2 : end])
        at = end
    return entries
