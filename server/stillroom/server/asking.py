"""Asking sites, and what becomes of their answers: judged as they come, late ones let go."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from stillroom.common.messages import INVENTORY, Task, UpdateRef
from stillroom.common.study import PreparedStudy
from stillroom.server.depot import Depot
from stillroom.server.rounds.deadline import Gathering
from stillroom.server.rounds.outcome import Answer, Outcome, judge, silent
from stillroom.server.store.journal import Journal


@dataclass(frozen=True, slots=True)
class Call:
    """One task for one site; ``kind`` is a key of ``messages.MESSAGE_TYPES``."""

    kind: str
    site: str
    task: Task

    @property
    def key(self) -> tuple[str, str]:
        """Stage and site: what tells calls apart that are under way together."""
        return self.task.stage, self.site


Awaited = Callable[[], Collection[tuple[str, str]]]
"""Keys of the calls whose answer would still count, at this moment."""


class Exchange(Protocol):
    """Sends tasks and brings answers. ``app`` implements it on Flower's Grid."""

    def sites(self) -> tuple[str, ...]:
        """Connected sites, sorted."""
        ...

    def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
        """Send every call and yield answers as they come, until no call is awaited any more.

        Answers to earlier calls that nobody awaits any more may come in between.
        """
        ...


Settle = Callable[[Call, Outcome], None]
"""Told of every call's outcome as it is known."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One way of putting questions, for all phases of a study.

    Attributes:
        prepared: The study.
        exchange: The way to the sites.
        depot: Where updates arrive.
        journal: Told of late answers.
        heed: Called at every look for answers; may raise to stop.
        clock: Seconds of a steady clock.
        late: Told of answers to rounds that have closed.
        met: Told of inventories that were asked for along with other questions, however late they
            come: a count of cases is of use in any round.
        let_go: Gets (site, SHA-256, base) of files that are of no use. They are removed by the
            caller once the round is behind it: a file of another round may have the same bytes.
    """

    prepared: PreparedStudy
    exchange: Exchange
    depot: Depot
    journal: Journal
    heed: Callable[[], None]
    clock: Callable[[], float]
    let_go: set[tuple[str, str, str]]
    late: Callable[[Call, Answer], None] = lambda _call, _answer: None
    met: Settle = lambda _call, _outcome: None

    def ask(
        self,
        calls: Sequence[Call],
        gathering: Gathering,
        settle: Settle | None = None,
        along: Sequence[Call] = (),
    ) -> dict[tuple[str, str], Outcome]:
        """What became of every call, by (stage, site).

        Args:
            calls: Each site at most once per stage.
            gathering: Of these calls, just opened; says how long to wait for whom.
            settle: Told in the order of arrival, of those without an answer last.
            along: Put beside them; ``met`` is told what comes.
        """
        opened = self.clock()
        told = settle or (lambda _call, _outcome: None)

        def awaited() -> Collection[tuple[str, str]]:
            self.heed()
            return gathering.awaited(self.clock())

        mine, outcomes = {id(call) for call in calls}, dict[tuple[str, str], Outcome]()
        for call, answer in self.exchange.ask([*calls, *along], awaited=awaited):
            if id(call) not in mine and call.kind == INVENTORY:
                gathering.settle(*call.key, usable=False, now=self.clock())
                self.met(call, self._judge(call, answer))
            elif id(call) not in mine:
                self._drop_late(call, answer)
            elif call.key not in outcomes:
                outcome = outcomes[call.key] = self._judge(call, answer)
                usable = outcome.status == "admitted"
                gathering.settle(*call.key, usable=usable, now=self.clock())
                told(call, outcome)
        for call in calls:
            if call.key not in outcomes:
                outcome = outcomes[call.key] = silent(call.task, self.clock() - opened)
                told(call, outcome)
        return outcomes

    def _judge(self, call: Call, answer: Answer) -> Outcome:
        def arrived(update: UpdateRef) -> AbstractContextManager[BinaryIO] | None:
            path = self.depot.received(call.site, update.sha256)
            return None if path is None else path.open("rb")

        outcome = judge(
            answer, kind=call.kind, task=call.task, prepared=self.prepared, arrived=arrived
        )
        if outcome.status != "admitted":
            self._discard(call.site, answer)
        return outcome

    def _drop_late(self, call: Call, answer: Answer) -> None:
        """An answer to a round that has closed: written down, and its file let go."""
        self.journal.event(
            "site.late",
            stage=call.task.stage,
            round=call.task.round,
            site=call.site,
            seconds=round(answer.seconds, 2),
        )
        self.late(call, answer)
        self._discard(call.site, answer)

    def _discard(self, site: str, answer: Answer) -> None:
        if answer.reply is not None and answer.reply.update is not None:
            self.let_go.add((site, answer.reply.update.sha256, answer.reply.update.base))
