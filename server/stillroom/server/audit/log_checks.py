"""Checks 1 to 12: is this the consortium's log, whole, and the one that others have seen? Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from stillroom.common.log_entries import timestamp
from stillroom.common.tlog.folder import CHECKPOINT
from stillroom.common.tlog.merkle import Hash, Tree, leaf_hash
from stillroom.common.tlog.tiles import WIDTH, bundle, tile, tile_path, tiles_of
from stillroom.server.audit.case import Case, Told
from stillroom.server.audit.findings import Problem, failed, said, warned
from stillroom.server.audit.published import FULL, PARTIAL, Bundle, judge_head

OURS = frozenset({CHECKPOINT, "lock"})


def checkpoint(case: Case) -> Iterator[Problem]:
    """1: there is a checkpoint, and the log's key signed it."""
    if case.contents.head_problem:
        yield failed(CHECKPOINT, case.contents.head_problem)
        return
    head = case.contents.head
    if head is not None:
        yield said(
            CHECKPOINT, f"{head.size} entries, root {head.root.hex()[:16]}…, signed by the log."
        )


def bundles(case: Told) -> Iterator[Problem]:
    """2: every bundle is there and each of its entries is the one that was hashed."""
    files = case.contents.files
    for number, found in enumerate(case.contents.bundles):
        name = tile_path(0, number, found.width)
        data = files.read(name)
        if data is None:
            data = files.read(tile_path(0, number))
        yield from bundle_problems(number, found, data)


def bundle_problems(number: int, found: Bundle, hashes: bytes | None) -> Iterator[Problem]:
    """One bundle beside the tile of its entries' hashes (absent: check 3 says so)."""
    if found.problem:
        yield failed(found.name, f"The bundle {found.problem}.")
    if hashes is None:
        return
    for place, entry in enumerate(found.entries):
        if hashes[32 * place : 32 * place + 32] != leaf_hash(entry):
            index = number * WIDTH + place
            what = "This entry is not the one whose hash the log's tree holds: it, or its hash, was changed."
            yield failed(f"entry {index} ({found.name})", what)


def tiles(case: Told) -> Iterator[Problem]:
    """3: every tile of hashes is there and is what the entries give."""
    tree = case.contents.tree
    for level, index, width in tiles_of(case.contents.size if case.contents.bundles else 0):
        name = tile_path(level, index, width)
        data = case.contents.files.read(name)
        if data is None and width < WIDTH:
            full = case.contents.files.read(tile_path(level, index))
            data = None if full is None else full[: 32 * width]
        if (index * WIDTH + width) << (8 * level) > len(tree):
            if data is None:
                yield failed(name, "The tile is missing.")
            continue  # the entries below it are not all there: check 2 says so
        yield from tile_problems(name, data, tile(tree, level, index, width))


def tile_problems(name: str, data: bytes | None, expected: bytes) -> Iterator[Problem]:
    """One tile, or another file that must be exactly these bytes."""
    if data is None:
        yield failed(name, "The tile is missing.")
    elif data != expected:
        at = _first_difference(data, expected) // 32
        yield failed(f"{name}, hash {at}", "It is not the hash that the entries below give.")


def root(case: Told) -> Iterator[Problem]:
    """4: the root of the entries is the one that was signed."""
    head, tree = case.contents.head, case.contents.tree
    if head is None:
        yield failed(CHECKPOINT, "There is no signed root to compare the entries with.")
    elif len(tree) != head.size:
        yield failed(CHECKPOINT, f"It promises {head.size} entries; {len(tree)} can be read.")
    elif tree.root() != head.root:
        what = "The entries give another root than the one that was signed: the log was rewritten."
        yield failed(CHECKPOINT, what)


def leftovers(case: Told) -> Iterator[Problem]:
    """5: no other file, and earlier forms of a tile say the same as its present one."""
    size, tree, raw = case.contents.size, case.contents.tree, case.contents.raw
    expected = {tile_path(level, n, width) for level, n, width in tiles_of(size)}
    expected |= {b.name for b in case.contents.bundles}
    for name in case.contents.files.names():
        if name in expected or name in OURS:
            continue
        if name.endswith(".tmp"):
            yield warned(
                name,
                "A file that was being written when the server stopped.",
            )
            continue
        match = PARTIAL.fullmatch(name)
        if match is None and FULL.fullmatch(name) is None:
            yield warned(name, "This file is no part of a log.")
            continue
        data = case.contents.files.read(name)
        yield from leftover_problems(name, data, leftover(name, raw, tree))


def leftover(name: str, raw: Sequence[bytes], tree: Tree) -> bytes | None:
    """What an earlier or later form of a tile must hold; None when it is about more entries."""
    match = PARTIAL.fullmatch(name)
    stem, width = (match[1], int(match[3])) if match else (name, WIDTH)
    _, level, *groups = stem.split("/")
    first = int("".join(group.removeprefix("x") for group in groups)) * WIDTH
    if not 0 < width <= WIDTH:
        return None
    if level == "entries":
        found = raw[first : first + width]
        return bundle(found) if len(found) == width else None
    if (first + width) << (8 * int(level)) > len(tree):
        return None
    return tile(tree, int(level), first // WIDTH, width)


def leftover_problems(name: str, data: bytes | None, expected: bytes | None) -> Iterator[Problem]:
    """An earlier or later form of a tile."""
    if expected is None:
        what = (
            "It holds entries that the checkpoint does not count: an append was cut short, or the "
            "checkpoint was put back to an earlier one."
        )
        yield warned(name, what)
    elif data != expected:
        yield failed(
            name, "An earlier form of this file said something else: the log was rewritten."
        )


def cosigned(case: Case) -> Iterator[Problem]:
    """6: cosignatures on the checkpoint hold."""
    head, note = case.contents.head, case.contents.note
    if head is None or note is None:
        yield failed(CHECKPOINT, "There is no checkpoint to cosign.")
        return
    good, bad = case.cosigned(note, case.contents.size)
    for site in bad:
        yield failed(
            CHECKPOINT, f"The cosignature under the name of {site} is not over this checkpoint."
        )
    known = {(case.log.name, case.log.key_id)}
    known |= {(w.name, w.key_id) for w in case.witnesses(case.contents.size)}
    for signature in note.signatures:
        if (signature.name, signature.key_id) not in known:
            yield warned(
                CHECKPOINT, f"A signature under the name of {signature.name} is by no member's key."
            )
    if good:
        who = ", ".join(f"{c.name} at {_moment(c.time)}" for c in good)
        yield said(CHECKPOINT, f"Cosigned by {who}.")
    elif not bad:
        what = "No site has cosigned it: that nobody was shown another log is the operator's word alone."
        yield warned(CHECKPOINT, what)


def quorum(case: Case) -> Iterator[Problem]:
    """7: as many sites cosigned as the study or the auditor demands."""
    demanded, note = case.demanded(), case.contents.note
    if not demanded:
        yield said("", "Neither a study nor the auditor demands cosignatures.")
        return
    good = [] if note is None else case.cosigned(note, case.contents.size)[0]
    if len(good) < demanded:
        what = f"{len(good)} of the {demanded} cosignatures that are demanded hold."
        yield failed(CHECKPOINT, what)
    else:
        yield said(CHECKPOINT, f"{len(good)} cosignatures hold; {demanded} are demanded.")


def seen(case: Case) -> Iterator[Problem] | None:
    """8: every checkpoint that somebody kept is of this log's beginning."""
    return _seen(case) if case.seen else None


def _seen(case: Case) -> Iterator[Problem]:
    for kept in case.seen:
        head, note, problem = judge_head(kept.data, case.log)
        if problem or head is None or note is None:
            yield failed(kept.name, f"{problem} It proves nothing about this log.")
            continue
        yield from prefix_problems(kept.name, head.size, head.root, case.contents.tree)
        who = ", ".join(c.name for c in case.cosigned(note, case.contents.size)[0])
        if head.size <= len(case.contents.tree) and case.contents.tree.root(head.size) == head.root:
            by = f", cosigned by {who}," if who else ""
            yield said(kept.name, f"The {head.size} entries it saw{by} are the first of this log.")


def prefix_problems(where: str, size: int, expected: Hash, tree: Tree) -> Iterator[Problem]:
    """A tree head that must be of the first entries of this log; recomputed, not only proven."""
    if size > len(tree):
        what = f"It saw {size} entries; this log has {len(tree)}: it was cut short or put back."
        yield failed(where, what)
    elif tree.root(size) != expected:
        what = f"The first {size} entries were others when it was signed: there are two logs."
        yield failed(where, what)


def witnessed(case: Case) -> Iterator[Problem]:
    """9: checkpoints that the log itself recorded are of its beginning, and their cosignatures hold."""
    count = 0
    for index, entry in case.history.witnessed:
        where = f"entry {index}"
        head, note, problem = judge_head(entry.checkpoint.encode("utf-8"), case.log)
        if problem or head is None or note is None:
            yield failed(where, f"It records a checkpoint that does not count. {problem}")
            continue
        if head.size > index:
            yield failed(where, "It records a checkpoint of entries that came after it.")
            continue
        yield from prefix_problems(where, head.size, head.root, case.contents.tree)
        good, bad = case.cosigned(note, index)
        for site in bad:
            yield failed(where, f"The cosignature recorded for {site} does not hold.")
        if not good and not bad:
            yield failed(where, "It records a checkpoint that no member cosigned.")
        count += bool(good)
    if count:
        yield said("", f"{count} recorded checkpoints are of this log and were cosigned.")


def spelling(case: Case) -> Iterator[Problem]:
    """10: every entry is one of ours, spelt in the one way there is."""
    for index, entry in enumerate(case.contents.entries):
        if entry is None:
            yield failed(f"entry {index}", "It is no entry of a known kind, or not spelt as one.")


def times(case: Case) -> Iterator[Problem]:
    """11: the server's clock did not go back."""
    before = ""
    for index, entry in case.contents.numbered():
        if entry.time < before:
            what = f"Its time, {entry.time}, is before that of the entry before it, {before}."
            yield warned(f"entry {index}", what)
        before = entry.time


def description(case: Case) -> Iterator[Problem]:
    """12: consortium.json is the description that the log names."""
    mine = hashlib.sha256(case.consortium.raw).hexdigest()
    named = [entry.sha256 for _, entry in case.history.consortia]
    if mine not in named:
        yield failed("consortium.json", "The log does not name this description of the consortium.")
    elif named[-1] != mine:
        what = "The log names a later description than this one; ask for it."
        yield warned("consortium.json", what)


def _first_difference(data: bytes, expected: bytes) -> int:
    pairs = zip(data, expected, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(data), len(expected)))


def _moment(seconds: int) -> str:
    if seconds > datetime(9999, 1, 1, tzinfo=UTC).timestamp():
        return "an impossible time"
    return timestamp(seconds)
