"""What every part of a study's run works with: its papers, the way to the sites, where it stands.

What to do next is decided by ``rounds.state``; what an answer is worth, by ``rounds.outcome``; how
long to wait, by ``rounds.deadline``; sending is in ``app``. Whoever works at the desk changes its state
in memory; ``commit`` is the one place where that becomes the past.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillroom.common.consent import Standing
from stillroom.common.log_entries import Entry
from stillroom.common.messages import LABEL, ROUND, Task
from stillroom.common.study import PreparedStudy, Stage, Study
from stillroom.common.update import check_task
from stillroom.server.asking import Asking, Call, Exchange, Settle
from stillroom.server.chronicle import Chronicle
from stillroom.server.depot import Depot, shelf_of
from stillroom.server.rounds.admission import without_consent
from stillroom.server.rounds.deadline import Gathering
from stillroom.server.rounds.outcome import Answer, Outcome
from stillroom.server.rounds.state import RunState
from stillroom.server.store.folder import RunFolder
from stillroom.server.study_notes import late

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Desk:
    """A study's run between two steps, and all it takes to make the next one.

    Attributes:
        prepared: The study every site accepted.
        folder: Where everything is recorded; claimed by the caller.
        exchange: The way to the sites.
        depot: Where models are fetched and updates arrive.
        consents: Site -> standing of its consent, asked before every round; None where no
            registry is kept.
        heed: Called at every look for answers; raises ``Paused`` or ``Ended`` when the operator
            wants that.
        clock: Seconds of a steady clock.
        wall: Seconds since the epoch.
        chronicle: The run's way into the log.
        state: Where the study is.
        let_go: (site, SHA-256, base) of files that are of no use, to be removed with the next step.
        shelf: This run's own place in the depot.
    """

    prepared: PreparedStudy
    folder: RunFolder
    exchange: Exchange
    depot: Depot
    consents: Callable[[], Mapping[str, Standing]] | None = None
    heed: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    chronicle: Chronicle = field(default_factory=lambda: Chronicle(None, ""))
    state: RunState = field(init=False)
    let_go: set[tuple[str, str, str]] = field(default_factory=set)
    shelf: str = field(init=False)

    def __post_init__(self) -> None:
        self.shelf = shelf_of(self.prepared.digest, self.folder.journal.folder)

    @property
    def study(self) -> Study:
        """The study file."""
        return self.prepared.study

    def event(self, name: str, **fields: Any) -> None:
        """Tell whoever watches."""
        self.folder.journal.event(name, **fields)

    def note(self, text: str) -> None:
        """Say what is not as it should be; it is kept with the next step."""
        # A reason may end with a full stop of its own.
        text = f"{text.rstrip('.')}."
        log.warning("study.note", extra={"note": text})
        self.state = self.state.noted(text)

    def commit(self, state: RunState, *entries: Entry) -> None:
        """Make a step the past, and have the log told of it."""
        self.chronicle.gather(*entries)
        state = self.chronicle.written_into(state)
        self.folder.save(state)
        self.state = state
        self.chronicle.settle(state)

    def standings(self, sites: Iterable[str]) -> Mapping[str, Standing] | None:
        """What every site has said by now; whoever has not consented is noted once, with why."""
        found = None if self.consents is None else self.consents()
        left: dict[str, str] = {}
        for site in sites:
            why = without_consent(found, site)
            if why is not None and self.state.left.get(site) != why:
                left[site] = why
                self.note(f"{site} takes no part: {why}.")
                self.event("site.left_out", site=site, reason=why)
        self.state = self.state.stood(None if found is None else dict(found), left)
        return found

    def task(self, kind: str, stage: Stage, number: int, models: Iterable[str]) -> Task:
        """A task, with its models where sites can fetch them."""
        task = Task(
            study=self.prepared.digest,
            stage=stage.name,
            round=number,
            models={name: self.state.models[name] for name in models},
        )
        # The rules a site holds us to, held here first: nothing but the stage's tensors goes out.
        check_task(kind, task, self.prepared)
        for model in task.models.values():
            self.depot.publish(self.shelf, self.folder.model(model.sha256), model.sha256)
            if model.delta is not None:
                change = model.delta.sha256
                self.depot.publish(self.shelf, self.folder.delta(change), change)
        return task

    def newcomers(self) -> list[str]:
        """Who has consented and given no inventory; where no registry is kept, who is connected."""
        standings = None if self.consents is None else self.consents()
        if standings is None:
            agreed = set(self.exchange.sites())
        else:
            agreed = {site for site in standings if without_consent(standings, site) is None}
        return sorted(agreed - self.state.inventories.keys())

    def meet(self, call: Call, outcome: Outcome) -> None:
        """Take a newcomer's inventory, known with the next step; it is asked from then on.

        Killed before that step: it is asked for its inventory again. Why it cannot join is said once.
        """
        site, why = call.site, outcome.reason
        if site in self.state.inventories or (why and self.state.left.get(site) == why):
            return
        self.event(
            "site.inventory",
            site=site,
            status=outcome.status,
            reason=why,
            counts=dict(outcome.metrics),
        )
        if outcome.status == "admitted":
            self.state = self.state.joined(site, outcome.metrics)
            self.note(f"{site} joined late: it takes part from the next round on.")
        else:
            self.state = self.state.stood(self.state.standings, {site: why})
            self.note(f"{site} takes no part: {why}.")

    def ask(
        self,
        calls: Sequence[Call],
        settle: Settle | None = None,
        *,
        along: Sequence[Call] = (),
        limit_s: float | None = None,
    ) -> dict[tuple[str, str], Outcome]:
        """What became of every call; a round's own rules on waiting where no limit is given.

        Args:
            calls: What is asked.
            settle: Told of every outcome as it is known.
            along: Questions to newcomers, for whom nobody waits.
            limit_s: How long to wait, in seconds.
        """
        state, asked = self.state, dict[str, list[str]]()
        for call in calls:
            asked.setdefault(call.task.stage, []).append(call.site)
        gathering = Gathering(
            asked,
            self.study.study.quorum,
            opened=self.clock(),
            slowest=state.slowest,
            absent=set(state.late) - set(self.exchange.sites()) if state.late else (),
            along=[call.key for call in along],
            limit_s=limit_s,
        )
        return Asking(
            self.prepared,
            self.exchange,
            self.depot,
            self.folder.journal,
            self.heed,
            self.clock,
            self.let_go,
            self._late,
            self.meet,
        ).ask(calls, gathering, settle, along)

    def _late(self, call: Call, answer: Answer) -> None:
        task = call.task
        if call.kind in {ROUND, LABEL}:
            self.chronicle.gather(late(task.study, task.stage, task.round, call.site, answer))
