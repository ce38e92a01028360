"""Something that is done while something else is, and has to end well before either counts."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def alongside(call: Callable[[], None] | None) -> Iterator[None]:
    """Run ``call`` in a thread while the block runs; the block ends no earlier than it does.

    What ``call`` raises is raised at the end of the block, also in place of what the block raised:
    whoever asked for both must hear of the first in any case. With None there is only the block.
    """
    if call is None:
        yield
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        made = thread.submit(call)
        try:
            yield
        finally:
            wait_for(made)


def wait_for(made: Future[None]) -> None:
    """Wait until it has ended; raises what it raised."""
    made.result()
