"""What a server does beside serving: again and again, until it is told to stop."""

import asyncio

import uvicorn

from stillroom.server.config import ServerConfig
from stillroom.server.edge import EdgeRecord, cut
from stillroom.server.keeper import LOOK_EVERY_S, Keeper
from stillroom.server.membership import Members
from stillroom.server.operator import Operator
from stillroom.server.store.journal import Journal

RECORD_EVERY_S = 2.0
"""How often ``edge.json`` is refreshed while something changed."""
CUT_EVERY_S = 0.5
"""How long a connection of a revoked site may stay open."""


async def keep_out(edge: uvicorn.Server, members: Members, record: EdgeRecord) -> None:
    """Cut open connections of sites that are no longer in."""
    while True:
        await asyncio.sleep(CUT_EVERY_S)
        cut(list(edge.server_state.connections), members, record)


async def keep_runs(config: ServerConfig, nodes_known: asyncio.Event) -> None:
    """Have a process go on with every wanted run that has none."""
    await nodes_known.wait()
    operator = Operator(config)
    keeper = Keeper(config.runs, operator)
    try:
        while True:
            await asyncio.to_thread(keeper.look)
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        operator.close()


async def keep_record(record: EdgeRecord, journal: Journal) -> None:
    """Write what the edge saw, whenever it changed."""
    last: object = None
    try:
        while True:
            now = record.as_json()
            if now != last:
                await asyncio.to_thread(journal.write, "edge.json", now)
                last = now
            await asyncio.sleep(RECORD_EVERY_S)
    finally:
        journal.write("edge.json", record.as_json())
