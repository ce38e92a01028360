"""Refused connections in the log: not one by one, which a stranger could flood it with, but summed up."""

import asyncio
import time
from collections import Counter

from stillroom.common.log_entries import UNSTAMPED, Refused, timestamp
from stillroom.server.edge_record import EdgeRecord
from stillroom.server.logbook import Logbook

SUM_UP_EVERY_S = 900.0


class Refusals:
    """What the edge has refused since that was last written down."""

    def __init__(self, record: EdgeRecord, now: float) -> None:
        self._record, self._since = record, now
        self._told: Counter[str] = Counter()

    def sum_up(self, now: float) -> Refused | None:
        """The log's entry; None when there was nothing."""
        seen = self._record.refused + self._record.handshakes_refused
        news = seen - self._told
        if not news:
            return None
        since, self._since, self._told = self._since, now, seen
        return Refused(time=UNSTAMPED, since=timestamp(since), reasons=dict(sorted(news.items())))


async def keep_refusals(record: EdgeRecord, book: Logbook, every_s: float = SUM_UP_EVERY_S) -> None:
    """Write into the log what was refused, from time to time and when the server stops."""
    refusals = Refusals(record, time.time())
    try:
        while True:
            await asyncio.sleep(every_s)
            entry = refusals.sum_up(time.time())
            if entry is not None:
                await asyncio.to_thread(book.note, entry)
    finally:
        entry = refusals.sum_up(time.time())
        if entry is not None:
            book.note(entry)
