"""Tiles: the paths and widths of the C2SP specification, and trees rebuilt from tiles alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.common.tlog.merkle import Tree, leaf_hash
from stillroom.common.tlog.tiles import (
    bundle,
    hashes,
    tile,
    tile_path,
    tiles_of,
    unbundle,
)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ((0, 1234067), "tile/0/x001/x234/067"),
        ((0, 0), "tile/0/000"),
        ((2, 0, 1), "tile/2/000.p/1"),
        ((None, 273, 112), "tile/entries/273.p/112"),
        ((0, 1000), "tile/0/x001/000"),
    ],
)
def test_paths(arguments: tuple[int, ...], path: str) -> None:
    """As in the specification's examples."""
    assert tile_path(*arguments) == path


def test_tiles_of_the_specification() -> None:
    """Its example: 70 000 entries."""
    tiles = list(tiles_of(70_000))

    assert sum(level == 0 and width == 256 for level, _, width in tiles) == 273
    assert (0, 273, 112) in tiles
    assert [t for t in tiles if t[0] == 1] == [(1, 0, 256), (1, 1, 17)]
    assert [t for t in tiles if t[0] == 2] == [(2, 0, 1)]
    assert list(tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 1500))
def test_a_tile_holds_the_roots_of_full_tiles_below(size: int) -> None:
    """Every hash of a higher tile is the root of the full tile under it."""
    tree = Tree(leaf_hash(str(number).encode()) for number in range(size))
    read = {
        (level, index): hashes(tile(tree, level, index, w)) for level, index, w in tiles_of(size)
    }

    for (level, index), found in read.items():
        if level:
            for place, value in enumerate(found):
                assert Tree(read[level - 1, index * 256 + place]).root() == value


@given(st.lists(st.binary(max_size=400), max_size=256))
def test_bundles(entries: list[bytes]) -> None:
    """What goes in comes out; anything cut off is refused."""
    data = bundle(entries)

    assert unbundle(data) == entries
    if data:
        with pytest.raises(ValueError, match="not a bundle"):
            unbundle(data[:-1])


def test_limits() -> None:
    """Entries fit their length's two bytes, bundles and tiles their 256 places."""
    with pytest.raises(ValueError, match="too long"):
        bundle([bytes(65_536)])
    with pytest.raises(ValueError, match="not a bundle"):
        unbundle(bundle([b""] * 257))
    with pytest.raises(ValueError, match="not a tile"):
        hashes(b"")
    with pytest.raises(ValueError, match="not a tile"):
        hashes(bytes(32 * 257))
