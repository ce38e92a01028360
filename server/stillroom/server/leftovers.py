"""What is left to do behind a commit: telling whoever watches, and letting go of files.

Nothing here is needed to go on. Killed in the middle, a process is followed by one that does all
of it again; each act is nothing when it was done.
"""

from collections.abc import Mapping
from typing import Any

from stillroom.common.study import Stage
from stillroom.server.desk import Desk
from stillroom.server.rounds.memory import Memory
from stillroom.server.rounds.state import files_of


def tell_closed(desk: Desk, stage: Stage, record: Mapping[str, Any]) -> None:
    """Tell whoever watches that a round counts."""
    losses = [
        site["metrics"]["train.loss"]
        for site in record["sites"].values()
        if site["status"] == "admitted" and "train.loss" in site["metrics"]
    ]
    desk.event(
        "round.closed",
        stage=stage.name,
        round=record["round"],
        of=stage.rounds,
        admitted=record["order"],
        loss=sum(losses) / len(losses) if losses else None,
        seconds=record["seconds"],
    )


def tidy_round(desk: Desk, record: Mapping[str, Any]) -> None:
    """Let go of the updates of a committed round; once its base is withdrawn (``tidy``)."""
    for name, site in record["sites"].items():
        if "update" in site:
            update = site["update"]
            desk.depot.release(desk.shelf, name, update["sha256"], update["base"])


def tidy(desk: Desk) -> None:
    """Keep, and offer to sites, what the state names and nothing else."""
    names = files_of(desk.state)
    desk.folder.keep_only(names)
    desk.depot.keep_only(desk.shelf, names)
    for name, number in desk.state.closed.items():
        Memory(desk.folder.memory, name, number).forget()
    while desk.let_go:
        desk.depot.release(desk.shelf, *desk.let_go.pop())


def clear(desk: Desk) -> None:
    """Leave nothing of an ended study on its way; what other runs wait for stays."""
    desk.depot.withdraw(desk.shelf)
    while desk.let_go:
        desk.depot.release(desk.shelf, *desk.let_go.pop())
    desk.depot.sweep()
