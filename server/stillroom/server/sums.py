"""The running sums of one round: an update is added when its turn has come, and the rest at the end."""

from collections.abc import Iterable, Sequence

from stillroom.common.study import PreparedStudy
from stillroom.server.asking import Call
from stillroom.server.depot import Depot
from stillroom.server.endings import Paused
from stillroom.server.rounds.aggregate import Aggregate, RoundSum
from stillroom.server.rounds.contributions import Contribution
from stillroom.server.rounds.memory import Memory
from stillroom.server.rounds.outcome import Outcome
from stillroom.server.rounds.schedule import exchanges_weights
from stillroom.server.rounds.state import RunState
from stillroom.server.rounds.turns import Turns
from stillroom.server.store.folder import RunFolder


class Sums:
    """One sum for every stage of the round that exchanges weights.

    Args:
        prepared: The study.
        state: It at this round.
        folder: Where models and memories are.
        depot: Where updates have arrived.
        calls: Everybody who was asked.
    """

    def __init__(  # a round is all of these
        self,
        prepared: PreparedStudy,
        state: RunState,
        folder: RunFolder,
        depot: Depot,
        calls: Sequence[Call],
    ) -> None:
        self._state, self._folder, self._depot = state, folder, depot
        self._study = prepared.study
        self._sums: dict[str, RoundSum] = {}
        self._turns: dict[str, Turns[Outcome]] = {}
        for name in {call.task.stage for call in calls}:
            stage = prepared.study.stage_named(name)
            if exchanges_weights(stage):
                base = state.models[name].sha256
                self._turns[name] = Turns(c.site for c in calls if c.task.stage == name)
                self._sums[name] = RoundSum(
                    folder.model(base),
                    base,
                    prepared.stages[name].manifest,
                    stage.exchange.encoding,
                    stage.aggregation,
                )

    def put(self, call: Call, outcome: Outcome) -> None:
        """Take what became of one call; add it, and whoever waited for it, if it is their turn."""
        name = call.task.stage
        if name in self._sums:
            self._add(name, self._turns[name].put(call.site, outcome))

    def finish(self, name: str) -> Aggregate | None:
        """The new model of a stage, its files durable; None where only counts came.

        Raises:
            StillroomError: As ``RoundSum.finish``.
        """
        if name not in self._sums:
            return None
        # Whoever came after one that never did is added now, still in the order of names.
        self._add(name, self._turns[name].rest())
        number = self._state.number
        last = number == self._study.stage_named(name).rounds
        memory = Memory(self._folder.memory, name, number, last=last)
        return self._sums[name].finish(self._folder.weights, memory)

    def _add(self, name: str, ready: Iterable[tuple[str, Outcome]]) -> None:
        for site, outcome in ready:
            update = outcome.update
            if update is None:
                continue
            path = self._depot.received(site, update.sha256)
            if path is None:
                # Admitted a moment ago: somebody cleans up on this machine. Left out silently, it
                # would make a wrong model; so nobody is left out, and the round is made again.
                raise Paused("an update that had been admitted is no longer on disk")
            self._sums[name].add(
                Contribution(site, path, update.encoding, update.base, outcome.samples)
            )
