"""How every fuzzer here makes its bytes, and what it holds a decoder to.

``STILLROOM_FUZZ_EXAMPLES`` says how many examples each fuzzer tries; 50 when unset.
"""

import json
import os
import resource
import tracemalloc
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from stillroom.common.errors import StillroomError

FUZZ = settings(
    max_examples=int(os.environ.get("STILLROOM_FUZZ_EXAMPLES", "50")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MOST_MEMORY = 16 << 20
TRACED = 25
"""Of so many calls the memory of one is traced to the byte; tracing all takes five times as long.
Of the others it is known what they add to the most this process ever had."""

ODD = ["", "name", "../x", "true", "1", "\x00", "\ud7ff", "\U0001f600", "a" * 65]
TEXT = st.sampled_from(ODD) | st.text(max_size=6)
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats()
JSONISH = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4)
DEEP = st.integers(1, 3000).map(lambda depth: b"[" * depth)

_calls = 0


def edited(data: bytes, edits: list[tuple[int, int]], cut: int = 0) -> bytes:
    """``data`` with some bytes changed and up to 63 of its end cut off."""
    changed = bytearray(data[: max(1, len(data) - cut % 64)])
    for at, value in edits:
        changed[at % len(changed)] = value
    return bytes(changed)


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """``good`` with some bytes changed, and perhaps cut short."""
    return st.builds(edited, st.just(good), EDITS, st.integers(0, 63))


def like(good: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, a damaged good paper, any JSON, or a good paper with one value replaced."""
    kinds = [
        st.binary(max_size=200),
        damaged(good),
        JSONISH.map(lambda value: json.dumps(value).encode()),
        DEEP,
    ]
    try:
        value = json.loads(good)
    except ValueError:
        return st.one_of(kinds)
    replaced = st.builds(
        lambda key, other: json.dumps({**value, key: other}).encode(),
        st.sampled_from(sorted(value)) | TEXT,
        JSONISH,
    )
    return st.one_of(*kinds, replaced)


def verdict(read: Callable[[], Any]) -> Any:
    """What ``read`` gives, or None when it ended in a code; and never in much memory."""
    global _calls  # noqa: PLW0603  # counts over all fuzzers of a process
    _calls += 1
    traced = _calls % TRACED == 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if traced:
        tracemalloc.start()
    try:
        return read()
    except StillroomError:
        return None
    finally:
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < MOST_MEMORY
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert added < MOST_MEMORY
