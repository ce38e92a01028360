"""What a person sees while a consortium works: stage, round, sites, loss."""

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from stillroom.common.study import Study
from stillroom.server.store.journal import describe


class RunProgress:
    """A bar per stage on a terminal; a line per round anywhere else.

    Use as a context manager; call it with every event of the run.
    """

    def __init__(self, console: Console, study: Study) -> None:
        self._console = console
        self._live = console.is_terminal
        self._started = time.monotonic()
        self._bars = Progress(
            TextColumn("[bold]{task.description:<18}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {
            stage.name: self._bars.add_task(stage.name, total=stage.rounds, start=False, news="")
            for stage in study.stage
        }

    def __enter__(self) -> "RunProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        name, stage = event["event"], event.get("stage")
        if self._live and stage in self._tasks:
            self._update(name, self._tasks[stage], event)
        if text := describe(event):
            if self._live and name == "round.closed":
                return
            seconds = time.monotonic() - self._started
            self._console.print(f"[dim]{seconds:6.1f} s[/]  {text}", highlight=False)

    def _update(self, name: str, task: TaskID, event: dict[str, Any]) -> None:
        if name == "stage.opened":
            self._bars.start_task(task)
        elif name == "round.opened":
            self._bars.update(task, news=f"asked {', '.join(event['invited'])}")
        elif name == "site.answered":
            self._bars.update(task, news=f"{event['site']} {event['status']}")
        elif name == "round.closed":
            loss = event["loss"]
            news = ", ".join(event["admitted"]) + ("" if loss is None else f"  loss {loss:.3f}")
            self._bars.update(task, advance=1, news=news)
        elif name == "stage.closed":
            self._bars.stop_task(task)
