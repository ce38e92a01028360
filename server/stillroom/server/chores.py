"""What a server does beside serving: again and again, until it is told to stop."""

import asyncio
import json
from pathlib import Path

import uvicorn

from stillroom.server.config import ServerConfig
from stillroom.server.edge import cut
from stillroom.server.edge_record import EdgeRecord
from stillroom.server.keeper import LOOK_EVERY_S, Keeper
from stillroom.server.membership import Members
from stillroom.server.operator import Operator
from stillroom.server.store.journal import Journal

RECORD = "edge.json"
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


def heard_before(folder: Path) -> dict[str, float]:
    """When sites were last seen, from the record of the start before; none where there is none."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        seen = {name: float(one["last_seen"]) for name, one in record["sites"].items()}
        return {name: float(at) for name, at in record.get("heard", {}).items()} | seen
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


async def keep_record(record: EdgeRecord, journal: Journal) -> None:
    """Write what the edge saw, whenever it changed."""
    last: object = None
    try:
        while True:
            now = record.as_json()
            if now != last:
                await asyncio.to_thread(journal.write, RECORD, now)
                last = now
            await asyncio.sleep(RECORD_EVERY_S)
    finally:
        journal.write(RECORD, record.as_json())
