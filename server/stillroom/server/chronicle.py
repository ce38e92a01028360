"""What one run says in the log, each thing exactly once, although its process may be killed.

What a step of the study brings about is gathered, becomes part of the state that commits the step, and is
then appended to the log. Killed between the two, the next process finds it in the state and looks
whether the log has had it since. What is about to happen (sites are asked) is appended at once:
that it happens twice after a crash is the truth.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from stillroom.common.errors import ContractError
from stillroom.common.log_entries import Entry, RoundOpened, StudyFinished, parse_entry
from stillroom.server.cosigned import Vouched
from stillroom.server.logbook import Logbook
from stillroom.server.rounds.state import RunState
from stillroom.server.study_notes import witnessed

LOOK_S = 0.1
"""Between two looks for cosignatures."""


@dataclass(slots=True)
class Chronicle:
    """The log, from one run's point of view.

    Attributes:
        book: The log; None where the consortium has none, and everything here does nothing.
        run: The run's name.
        signature: ``study.sig``.
        gathered: What the next step will say.
        stands: Size of a log that holds everything that the run's last step said.
    """

    book: Logbook | None
    run: str
    signature: str = ""
    gathered: list[Entry] = field(default_factory=list)
    stands: int = 0
    _told: str = ""

    def gather(self, *entries: Entry) -> None:
        """Say ``entries`` with the next step."""
        if self.book is not None:
            self.gathered += entries

    def written_into(self, state: RunState) -> RunState:
        """``state`` with what its step has to say, ready to be saved."""
        if self.book is None:
            return state
        entries = tuple(entry.to_bytes().decode("utf-8") for entry in self.gathered)
        return replace(state, entries=entries, logged=self.book.size())

    def settle(self, state: RunState) -> None:
        """Append what a saved state says, unless it is in the log."""
        if self.book is not None:
            entries = [parse_entry(text.encode("utf-8")) for text in state.entries]
            self.stands = self.book.note_once(entries, state.logged)
            self.gathered.clear()

    def note(self, *entries: Entry) -> None:
        """Append now: before sites are asked, before a result is shown."""
        if self.book is not None:
            self.book.note(*entries)

    def finish(self, state: RunState, entry: StudyFinished) -> None:
        """Append a run's end, once."""
        if self.book is not None:
            self.book.note_once([entry], state.logged)

    def asked_before(self, state: RunState, stage: str) -> set[str]:
        """Sites that were asked for the open round by a process that is no more."""
        if self.book is None:
            return set()
        return {
            site
            for _, entry in self.book.entries(state.logged)
            if isinstance(entry, RoundOpened)
            and (entry.study, entry.stage, entry.round) == (state.study, stage, state.number)
            for site in entry.invited
        }

    def vouched(self) -> Vouched | None:
        """Which checkpoint most sites have cosigned, if the run's last step stands in it."""
        best = None if self.book is None else self.book.cosigned.best()
        return None if best is None or best.checkpoint.size < self.stands else best

    def gather_vouched(self) -> None:
        """Say who vouched for the log so far, if that has not been said."""
        best = self.vouched()
        if best is not None and best.note.text + str(best.sites) != self._told:
            self._told = best.note.text + str(best.sites)
            self.gather(witnessed(best))

    def wait_for(
        self,
        wanted: int,
        among: Iterable[str],
        *,
        limit_s: float,
        heed: Callable[[], None],
    ) -> None:
        """Wait until as many sites as the study wants have vouched for the round before.

        Args:
            wanted: How many.
            among: Sites that take part.
            limit_s: How long.
            heed: May raise to stop.

        Raises:
            ContractError: STR-223, they did not.
        """
        if self.book is None or not wanted:
            return
        mine, end = set(among), time.monotonic() + limit_s
        # Where fewer sites were asked than the study wants, all of them must.
        wanted = min(wanted, len(mine))
        while True:
            found = mine & set(self.book.cosigned.since(self.stands))
            if len(found) >= wanted:
                return
            if time.monotonic() >= end:
                break
            heed()
            time.sleep(LOOK_S)
        raise ContractError(
            f"{len(found)} of {len(mine)} sites have cosigned the log; the study wants {wanted}.",
            fix="See the sites' logs: a courier that stopped over the log says STR-222.",
            code="STR-223",
        )
