"""Batches drawn one ahead, while the step before them computes."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from stillroom.client.training.sampling import Batch


class Batches(Protocol):
    """Where a round's batches come from."""

    def draw(self) -> Batch:
        """The next batch."""
        ...


class Ahead:
    """The batches of another source, in its order, each drawn while the one before is in use.

    One thread draws, one batch after the other, so whatever the source draws at random is the same
    as without it.

    Args:
        source: Asked ``count`` times and never more.
        count: Batches in all.
        thread: Draws them, and nothing else.
    """

    def __init__(self, source: Batches, count: int, thread: ThreadPoolExecutor) -> None:
        self._source, self._left, self._thread = source, count, thread
        self._coming: Future[Batch] | None = None
        self._order()

    def draw(self) -> Batch:
        """The next batch; raises what drawing it raised.

        Raises:
            ValueError: All of them were drawn.
        """
        if self._coming is None:
            raise ValueError("all batches were drawn")
        batch = self._coming.result()
        self._order()
        return batch

    def _order(self) -> None:
        self._coming = self._thread.submit(self._source.draw) if self._left else None
        self._left -= 1


@contextmanager
def batches_of(source: Batches, count: int, *, ahead: bool) -> Iterator[Batches]:
    """``source``, with ``ahead`` one batch ahead of whoever draws; no thread outlives the block."""
    if not ahead:
        yield source
        return
    thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        yield Ahead(source, count, thread)
    finally:
        thread.shutdown(cancel_futures=True)
