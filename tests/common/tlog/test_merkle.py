"""The Merkle tree against published vectors and against a tree written straight from RFC 6962."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.tlog.merkle import (
    EMPTY,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

# The inputs and roots that the Certificate Transparency project publishes for RFC 6962.
INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_of(size: int) -> Tree:
    return Tree(leaf_hash(str(number).encode()) for number in range(size))


def naive(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(naive(leaves[:split]), naive(leaves[split:]))


def test_published_roots() -> None:
    """Every prefix of the published inputs has the published root."""
    tree = Tree()
    for entry, root in zip(INPUTS, ROOTS, strict=True):
        tree.append(leaf_hash(bytes.fromhex(entry)))
        assert tree.root().hex() == root


def test_empty_tree() -> None:
    """The root of nothing is the hash of nothing."""
    assert Tree().root() == EMPTY


@given(st.integers(0, 300))
def test_root_is_that_of_the_definition(size: int) -> None:
    """The incremental tree and the recursive definition agree."""
    leaves = [leaf_hash(str(number).encode()) for number in range(size)]
    assert Tree(leaves).root() == naive(leaves)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_inclusion(case: tuple[int, int]) -> None:
    """A proof holds for its entry and for no other place, leaf, size or root."""
    size, index = case
    tree = tree_of(size + 1)
    leaf, root, path = leaf_hash(str(index).encode()), tree.root(size), tree.inclusion(index, size)

    assert verify_inclusion(leaf, index, size, path, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, path, root)
    assert not verify_inclusion(leaf, index + 1, size, path, root)
    assert not verify_inclusion(leaf, index, size, [*path, EMPTY], root)
    assert not verify_inclusion(leaf, index, size, path, tree.root(size + 1))
    for at in range(len(path)):
        wrong = [*path[:at], EMPTY, *path[at + 1 :]]
        assert not verify_inclusion(leaf, index, size, wrong, root)
        assert not verify_inclusion(leaf, index, size, path[:at] + path[at + 1 :], root)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_consistency(case: tuple[int, int]) -> None:
    """A proof holds between two heads of one log and between no others."""
    old, new = case
    tree = tree_of(new)
    path = tree.consistency(old, new)

    assert verify_consistency(old, tree.root(old), new, tree.root(new), path)
    assert not verify_consistency(old, EMPTY, new, tree.root(new), path)
    assert not verify_consistency(old, tree.root(old), new, EMPTY, path)
    for at in range(len(path)):
        wrong = [*path[:at], EMPTY, *path[at + 1 :]]
        assert not verify_consistency(old, tree.root(old), new, tree.root(new), wrong)
        short = path[:at] + path[at + 1 :]
        assert not verify_consistency(old, tree.root(old), new, tree.root(new), short)


@given(st.integers(2, 120).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_a_rewritten_log_has_no_proof(case: tuple[int, int]) -> None:
    """Whoever changes one old entry cannot connect the new head with the old one."""
    new, old = case
    honest = tree_of(new)
    forged = Tree(
        leaf_hash(b"forged" if number == old - 1 else str(number).encode()) for number in range(new)
    )

    path = forged.consistency(old, new)

    assert not verify_consistency(old, honest.root(old), new, forged.root(new), path)


def test_edges() -> None:
    """An empty log is a prefix of any; proofs about what is not there do not exist."""
    tree = tree_of(3)

    assert verify_consistency(0, EMPTY, 3, tree.root(), [])
    assert not verify_consistency(0, tree.root(1), 3, tree.root(), [])
    assert not verify_consistency(3, tree.root(), 2, tree.root(2), [])
    with pytest.raises(IndexError):
        tree.inclusion(3)
    with pytest.raises(IndexError):
        tree.consistency(0)
    with pytest.raises(IndexError):
        tree.consistency(1, 4)
