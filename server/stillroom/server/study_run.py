"""One study from its first question to its student, in steps that survive the process.

Here is the order in which things become durable. A step ends with one replacement of ``state.json``.
Killed before it, the step is made again: sites answer the same question from what they kept, files
that have arrived are not sent again, and what was written for the step is overwritten with the same
or newer bytes. Killed after it, the step is behind us, and what follows it (telling, tidying) is
made up for at the next start.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stillroom.common.errors import StillroomError
from stillroom.common.log_entries import UNSTAMPED, StudyStarted
from stillroom.server.census import take_inventory
from stillroom.server.desk import Desk
from stillroom.server.endings import (
    Ended,
    Paused,
    broken,
    disk_full,
    ending,
    is_full_disk,
    stopped,
)
from stillroom.server.leftovers import clear, tell_closed, tidy, tidy_round
from stillroom.server.round_run import open_wave, run_round
from stillroom.server.rounds.result import result
from stillroom.server.rounds.state import RunState
from stillroom.server.scoring import check, score
from stillroom.server.store.folder import RESULT
from stillroom.server.store.journal import read_events
from stillroom.server.study_notes import finished

log = logging.getLogger(__name__)

STEPS: dict[str, Callable[[Desk], None]] = {
    "inventory": take_inventory,
    "wave": open_wave,
    "round": run_round,
    "check": check,
    "score": score,
}
"""Phase of ``rounds.state`` -> the step that is due; each ends with a commit."""


@dataclass(slots=True)
class StudyRun(Desk):
    """Runs a prepared study, from its start or from where its folder says it is.

    Attributes:
        early_notes: What was amiss before a first start.
    """

    early_notes: tuple[str, ...] = ()

    def run(self) -> None:
        """The whole study, or what is left of it.

        Every end for good leaves a ``result.json``. A signal, a full disk and the operator's wish to
        pause leave none: the study goes on from its state when it is started again.

        Raises:
            StillroomError: Why the study could not be finished, after recording it.
            TrustError: STR-514, the folder holds no state that this study could go on from; nothing
                was changed.
            Paused: It is to go on later.
        """
        self._begin()
        try:
            while not self.state.final:
                self.heed()
                STEPS[self.state.phase](self)
        except Paused as pause:
            self.event("study.paused", reason=pause.reason)
            self.chronicle.note(self._started("stopped"))
            raise
        except (KeyboardInterrupt, SystemExit):
            # Flower ends a process with a signal. Nothing is to be saved: it is all saved.
            self.event("study.paused", reason="its process was told to stop")
            raise
        except Ended:
            self._end(stopped())
        except Exception as error:
            if is_full_disk(error):
                self.event("study.paused", reason=str(disk_full()))
                raise Paused(str(disk_full()), give_up=True) from error
            if isinstance(error, StillroomError):
                self._end(error)
                raise
            # A defect of ours. Whoever waits for this run must still learn that it has ended.
            log.exception("study.broken")
            self._end(broken())
            raise
        self._finish()

    def end(self, error: StillroomError) -> None:
        """End a study that nobody works on, where it is; one that has ended is left as it is.

        Raises:
            TrustError: STR-514, the folder holds no state of this study.
        """
        self._begin()
        if not self.state.final:
            self._end(error)
        self._finish()

    # -- from the start, or from the state ---------------------------------------------------------

    def _begin(self) -> None:
        self.folder.journal.mend()
        found = self.folder.load(self.prepared.digest)
        if found is None:
            self.state = RunState(study=self.prepared.digest, started_at=self.wall())
            for text in self.early_notes:
                self.note(text)
            self.commit(self.state, self._started("started"))
            self.event("study.started", study=self.prepared.digest)
            return
        self.state = found
        # Killed between state and log: what the last step had to say is said now, or has been.
        self.chronicle.settle(found)
        if not found.final:
            self._resume()

    def _resume(self) -> None:
        """Make up for what a killed process left undone."""
        self.chronicle.note(self._started("resumed"))
        self.event(
            "study.resumed",
            study=self.prepared.digest,
            phase=self.state.phase,
            round=self.state.number,
            closed=dict(self.state.closed),
        )
        told = {
            (event["stage"], event["round"])
            for event in self._events()
            if event["event"] == "round.closed"
        }
        tidy(self)
        for name, number in self.state.closed.items():
            record = self.folder.rounds(name, number)[-1]
            if (name, number) not in told:
                tell_closed(self, self.study.stage_named(name), record)
            tidy_round(self, record)
        self.depot.sweep()

    def _started(self, act: Literal["started", "resumed", "stopped"]) -> StudyStarted:
        return StudyStarted(
            time=UNSTAMPED,
            study=self.prepared.digest,
            name=self.study.study.name,
            run=self.chronicle.run,
            act=act,
            signature=self.chronicle.signature if act == "started" else "",
            witnesses=self.study.study.quorum.witnesses,
        )

    # -- to the end --------------------------------------------------------------------------------

    def _end(self, error: StillroomError) -> None:
        self.commit(self.state.failed(ending(error)))
        self._finish()

    def _finish(self) -> None:
        """Write down how it ended. Killed here: done at the next start, which finds a final state."""
        clear(self)
        document = self.folder.journal.read(RESULT)
        if document is None:
            document, sha256 = self.folder.draft(self._result)
            self.chronicle.finish(self.state, finished(document, self.chronicle.run, sha256))
            # Watchers end with the event and then read the document: it must be there.
            self.folder.publish_result()
        if not any(e["event"] == "study.finished" for e in self._events()):
            self.event("study.finished", status=document["status"], error=document["error"])

    def _result(self) -> dict[str, Any]:
        closed = self.state.closed
        rounds = {name: self.folder.rounds(name, number) for name, number in closed.items()}
        seconds = self.wall() - self.state.started_at
        return result(self.study, self.state, rounds, seconds=seconds)

    def _events(self) -> Iterator[dict[str, Any]]:
        return (event for _, event in read_events(self.folder.journal.folder))
