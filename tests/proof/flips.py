"""One byte flipped, at every position of every published file of a log.

A file's bytes are judged by the very functions that ``verify`` runs on that file, and with what it
gives them: the bundle with its tile, the tile with what the entries give, the checkpoint with key,
witnesses and quorum. A whole ``verify`` per position would say the same and take days; it is run
for some positions of every file, so that the short way cannot be another way.
"""

import functools
import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import tampering

from stillroom.common.tlog.merkle import leaf_hash
from stillroom.common.tlog.tiles import tile, tile_path, tiles_of
from stillroom.server.audit import log_checks
from stillroom.server.audit.case import Case
from stillroom.server.audit.checks import CHECKS, apply
from stillroom.server.audit.findings import Problem
from stillroom.server.audit.log_checks import (
    bundle_problems,
    leftover,
    leftover_problems,
    tile_problems,
)
from stillroom.server.audit.published import decode_bundle, judge_head
from stillroom.server.audit.reading import MemoryFiles, case_of

_benches: list[tampering.Bench] = []
"""What is flipped; its keys cannot be handed to a process, but a forked one has them."""
HEAD_CHECKS = tuple(check for check in CHECKS if check.number in {1, 4, 6, 7})


def flip_all(
    bench: tampering.Bench, *, stride: int = 1, workers: int = 1
) -> dict[str, tuple[int, int]]:
    """What kind of file -> (positions detected, positions tried).

    Args:
        bench: An honest log.
        stride: 1 tries every position; the tests take steps.
        workers: Processes; they share the positions.
    """
    shares = [(part * stride, workers * stride) for part in range(workers)]
    _benches[:] = [bench]
    if workers == 1:
        counts = [_flip_share(shares[0])]
    else:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            counts = pool.map(_flip_share, shares, chunksize=1)
    found, tried = (sum((pair[n] for pair in counts), Counter[str]()) for n in (0, 1))
    return {kind: (found[kind], tried[kind]) for kind in sorted(tried)}


def _flip_share(share: tuple[int, int]) -> tuple[Counter[str], Counter[str]]:
    """Positions detected and tried, by kind of file, of those from a first one in steps."""
    (bench,), (first, step) = _benches, share
    # The hash of an entry that was not flipped is the same every time: it is made once.
    log_checks.leaf_hash = functools.lru_cache(1 << 12)(leaf_hash)
    case = case_of(bench.world.consortium, MemoryFiles(bench.files))
    kinds = _kinds(case, bench.files)
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    try:
        for name, data in bench.files.items():
            for at in range(first, len(data), step):
                altered = bytearray(data)
                altered[at] ^= 1 << at % 8
                problems = _judge(case, bench.files, kinds[name], name, bytes(altered))
                tried[kinds[name]] += 1
                found[kinds[name]] += any(problem.result == "FAILED" for problem in problems)
    finally:
        log_checks.leaf_hash = leaf_hash
    return found, tried


def flip_some(bench: tampering.Bench, count: int) -> tuple[int, int]:
    """(detected, tried) by a whole verification of each of some positions of every file."""
    tried = found = 0
    for name, at in tampering.samples(bench.files, count):
        data = bytearray(bench.files[name])
        data[at] ^= 1 << at % 8
        findings = replace(bench, files={**bench.files, name: bytes(data)}).findings()
        tried += 1
        found += any(finding.result == "FAILED" for finding in findings)
    return found, tried


def _kinds(case: Case, files: dict[str, bytes]) -> dict[str, str]:
    present = {tile_path(level, n, w) for level, n, w in tiles_of(case.contents.size)}
    bundles = {bundle.name for bundle in case.contents.bundles}
    kinds = {}
    for name in files:
        if name == "checkpoint":
            kinds[name] = "checkpoint"
        elif name in bundles:
            kinds[name] = "bundles of entries"
        else:
            kinds[name] = "tiles" if name in present else "earlier forms of tiles"
    return kinds


def _judge(
    case: Case, files: dict[str, bytes], kind: str, name: str, altered: bytes
) -> Iterator[Problem]:
    tree = case.contents.tree
    if kind == "checkpoint":
        return _judge_head(case, altered)
    if kind == "bundles of entries":
        number = next(n for n, b in enumerate(case.contents.bundles) if b.name == name)
        width = case.contents.bundles[number].width
        hashes = files[tile_path(0, number, width)]
        return bundle_problems(number, decode_bundle(name, altered, width), hashes)
    if kind == "tiles":
        place = next(p for p in tiles_of(case.contents.size) if tile_path(*p) == name)
        return tile_problems(name, altered, tile(tree, *place))
    return leftover_problems(name, altered, leftover(name, case.contents.raw, tree))


def _judge_head(case: Case, altered: bytes) -> Iterator[Problem]:
    head, note, problem = judge_head(altered, case.log)
    contents = replace(case.contents, head=head, note=note, head_problem=problem)
    other = replace(case, contents=contents)
    findings = itertools.chain.from_iterable(apply(check, other) for check in HEAD_CHECKS)
    return (Problem(f.result, f.where, f.meaning) for f in findings)
