"""One study from its first question to its student, in steps that survive the process.

What to do next is decided by ``rounds.state``; what an answer is worth, by ``rounds.outcome``; how
long to wait, by ``rounds.deadline``; sending is in ``app``. Here is the order in which things become
durable. A step ends with one replacement of ``state.json``. Killed before it, the step is made
again: sites answer the same question from what they kept, files that have arrived are not sent
again, and what was written for the step is overwritten with the same or newer bytes. Killed after
it, the step is behind us, and what follows it (telling, tidying) is made up for at the next start.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stillroom.common.consent import Standing
from stillroom.common.errors import StillroomError
from stillroom.common.log_entries import UNSTAMPED, Entry, StudyStarted
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, ModelRef, Task
from stillroom.common.study import PreparedStudy, Stage, Study
from stillroom.common.update import check_task, needed_models
from stillroom.server.asking import Asking, Call, Exchange, Settle
from stillroom.server.chronicle import Chronicle
from stillroom.server.depot import Depot
from stillroom.server.endings import Ended, Paused, broken, disk_full, ending, stopped
from stillroom.server.retention import keep_round
from stillroom.server.rounds.admission import Admission, admit, admit_evaluation, without_consent
from stillroom.server.rounds.aggregate import Aggregate
from stillroom.server.rounds.deadline import Gathering
from stillroom.server.rounds.memory import Memory
from stillroom.server.rounds.outcome import (
    Answer,
    Outcome,
    require_quorum,
    round_record,
)
from stillroom.server.rounds.result import result
from stillroom.server.rounds.schedule import exchanges_weights
from stillroom.server.rounds.state import RunState, active, files_of, to_check, wave_of
from stillroom.server.store.folder import RESULT, RunFolder
from stillroom.server.store.journal import read_events
from stillroom.server.study_notes import (
    finished,
    late,
    round_committed,
    round_opened,
    scored,
    stage_opened,
    update,
)
from stillroom.server.sums import Sums

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StudyRun:
    """Runs a prepared study, from its start or from where its folder says it is.

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
        early_notes: What was amiss before a first start.
        chronicle: The run's way into the log.
    """

    prepared: PreparedStudy
    folder: RunFolder
    exchange: Exchange
    depot: Depot
    consents: Callable[[], Mapping[str, Standing]] | None = None
    heed: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    early_notes: tuple[str, ...] = ()
    chronicle: Chronicle = field(default_factory=lambda: Chronicle(None, ""))
    state: RunState = field(init=False)
    let_go: set[tuple[str, str]] = field(default_factory=set)

    @property
    def study(self) -> Study:
        """The study file."""
        return self.prepared.study

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
        event = self.folder.journal.event
        self._begin()
        try:
            while not self.state.final:
                self.heed()
                self._step()
        except Paused as pause:
            event("study.paused", reason=pause.reason)
            self.chronicle.note(self._started("stopped"))
            raise
        except (KeyboardInterrupt, SystemExit):
            # Flower ends a process with a signal. Nothing is to be saved: it is all saved.
            event("study.paused", reason="its process was told to stop")
            raise
        except Ended:
            self._end(stopped())
        except StillroomError as error:
            self._end(error)
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                event("study.paused", reason=str(disk_full()))
                raise Paused(str(disk_full()), give_up=True) from error
            # A defect of ours. Whoever waits for this run must still learn that it has ended.
            log.exception("study.broken")
            self._end(broken())
            raise
        self._finish()

    def _begin(self) -> None:
        """From the start, or from the state; then make up for what a killed process left undone."""
        self.folder.journal.mend()
        found = self.folder.load(self.prepared.digest)
        if found is None:
            self.state = RunState(study=self.prepared.digest, started_at=self.wall())
            for text in self.early_notes:
                self._note(text)
            self._commit(self.state, self._started("started"))
            self.folder.journal.event("study.started", study=self.prepared.digest)
            return
        self.state = found
        # Killed between state and log: what the last step had to say is said now, or has been.
        self.chronicle.settle(found)
        if found.final:
            return
        self.chronicle.note(self._started("resumed"))
        self.folder.journal.event(
            "study.resumed",
            study=self.prepared.digest,
            phase=found.phase,
            round=found.number,
            closed=dict(found.closed),
        )
        told = {
            (event["stage"], event["round"])
            for event in self._events()
            if event["event"] == "round.closed"
        }
        for name, number in found.closed.items():
            record = self.folder.rounds(name, number)[-1]
            if (name, number) not in told:
                self._tell_closed(self.study.stage_named(name), record)
            self._tidy_round(record)
        self._tidy()

    def _step(self) -> None:
        steps: dict[str, Callable[[], None]] = {
            "inventory": self._take_inventory,
            "wave": self._open_wave,
            "round": self._run_round,
            "check": self._check,
            "score": self._score,
        }
        steps[self.state.phase]()

    # -- 1. who is there, and with what ------------------------------------------------------

    def _take_inventory(self) -> None:
        sites = self.exchange.sites()
        standings = self._standings(sites)
        task = Task(self.prepared.digest)
        calls = [Call(INVENTORY, site, task) for site in sites if site not in self.state.left]
        inventories: dict[str, Mapping[str, float]] = {}
        quorum = self.study.study.quorum
        outcomes = self._ask(calls, limit_s=min(quorum.deadline_s, quorum.grace_s))
        for (_, site), outcome in sorted(outcomes.items()):
            if outcome.status == "admitted":
                inventories[site] = outcome.metrics
                if not outcome.metrics.get("inventory.cases"):
                    self._note(f"{site} has no usable case.")
            else:
                self._note(f"{site} takes no part: {outcome.reason}.")
            self.folder.journal.event(
                "site.inventory",
                site=site,
                status=outcome.status,
                reason=outcome.reason,
                counts=dict(outcome.metrics),
            )
        # A label nobody owns is known now; it must not cost an hour of other stages first.
        for stage in self.study.stage:
            admit(self.study, stage, inventories, standings)
        self._commit(self.state.counted(inventories))

    def _standings(self, sites: Iterable[str]) -> Mapping[str, Standing] | None:
        """What every site has said by now; whoever has not consented is noted once, with why."""
        found = None if self.consents is None else self.consents()
        left: dict[str, str] = {}
        for site in sites:
            why = without_consent(found, site)
            if why is not None and self.state.left.get(site) != why:
                left[site] = why
                self._note(f"{site} takes no part: {why}.")
                self.folder.journal.event("site.left_out", site=site, reason=why)
        self.state = self.state.stood(None if found is None else dict(found), left)
        return found

    # -- 2. the stages, those that need nothing of each other side by side ---------------------

    def _open_wave(self) -> None:
        models = {}
        for stage in wave_of(self.study, self.state):
            if exchanges_weights(stage):
                initial = self.prepared.stages[stage.name].initial_sha256
                models[stage.name] = ModelRef(initial, self.folder.model(initial).stat().st_size)
        after = self.state.opened(self.study, models)
        wave = wave_of(self.study, after)
        self._commit(after, *(stage_opened(after.study, s, after.models) for s in wave))
        for stage in wave:
            self.folder.journal.event("stage.opened", stage=stage.name, recipe=stage.recipe)

    def _run_round(self) -> None:
        opened, chronicle = self.clock(), self.chronicle
        stages = {stage.name: stage for stage in active(self.study, self.state)}
        earlier = {name: chronicle.asked_before(self.state, name) for name in stages}
        calls = self._invite(stages.values())
        sums = Sums(self.prepared, self.state, self.folder, self.depot, calls)

        def settle(call: Call, outcome: Outcome) -> None:
            self._report(stages[call.task.stage], call, outcome)
            sums.put(call, outcome)

        outcomes = self._ask(calls, settle=settle)
        for (name, site), outcome in sorted(outcomes.items()):
            chronicle.gather(update(self.state, name, site, outcome))
        made: dict[str, Aggregate] = {}
        records: dict[str, dict[str, Any]] = {}
        for name, stage in stages.items():
            mine = {site: o for (s, site), o in sorted(outcomes.items()) if s == name}
            require_quorum(self.study, name, mine)
            # 1. The new model's files, durable under their digests. Killed here: nobody knows
            #    them; they are removed, or made again, at the next start.
            one = sums.finish(name)
            if one is not None:
                made[name] = one
            records[name] = self._record(stage, mine, made.get(name), self.clock() - opened)
            self._retain(stage, mine)
        self._await_witnesses({site for _, site in outcomes})
        # 2. The records. Killed here: written again when the round is.
        commits = []
        chronicle.gather_vouched()
        for name, record in records.items():
            self.folder.write_round(name, {**record, **self._witnesses()})
            sha256 = self.folder.round_digest(name, self.state.number)
            commits.append(round_committed(self.state, record, sha256, earlier[name]))
        # 3. The state: all stages of this round, or none; with it, what is to be said in the log.
        #    Killed here: ``_begin`` says it.
        # 4. The log. Killed here: ``_begin`` finds it there.
        self._commit(
            self.state.committed(
                self.study,
                {name: ModelRef(one.sha256, one.nbytes, one.delta) for name, one in made.items()},
                _slowest(outcomes),
                tuple({site for (_, site), o in outcomes.items() if o.status == "late"}),
            ),
            *commits,
        )
        # 5. The world. Killed here: ``_begin`` does it.
        for name, record in records.items():
            self._tell_closed(stages[name], record)
            self._tidy_round(record)
        self._tidy()

    def _invite(self, stages: Iterable[Stage]) -> list[Call]:
        """Whom to ask in every stage of this round; in the log before anybody is."""
        standings = self._standings(self.state.inventories)
        calls, opened = list[Call](), list[tuple[Stage, Admission]]()
        for stage in stages:
            admission = admit(self.study, stage, self.state.inventories, standings)
            kind = ROUND if exchanges_weights(stage) else LABEL
            task = self._task(kind, stage, self.state.number, needed_models(kind, stage))
            calls += [Call(kind, site, task) for site in admission.invited]
            opened.append((stage, admission))
        self.chronicle.note(
            *(round_opened(self.state, s, one.invited, one.left_out) for s, one in opened)
        )
        for stage, admission in opened:
            self.folder.journal.event(
                "round.opened",
                stage=stage.name,
                round=self.state.number,
                of=stage.rounds,
                invited=list(admission.invited),
                left_out=dict(admission.left_out),
            )
        return calls

    def _await_witnesses(self, sites: set[str]) -> None:
        quorum = self.study.study.quorum
        self.chronicle.wait_for(quorum.witnesses, sites, limit_s=quorum.deadline_s, heed=self.heed)

    def _witnesses(self) -> dict[str, Any]:
        """Who has vouched for the log in which the round before stands, for a round's record."""
        found = self.chronicle.vouched()
        if found is None:
            return {}
        return {"witnessed": {"size": found.checkpoint.size, "sites": list(found.sites)}}

    def _retain(self, stage: Stage, outcomes: Mapping[str, Outcome]) -> None:
        """Keep what it takes to make this round again, if the study says so."""
        if exchanges_weights(stage):
            keep_round(self.prepared, self.folder, self.depot, self.state, stage, outcomes)

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

    def _task(self, kind: str, stage: Stage, number: int, models: Iterable[str]) -> Task:
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
            self.depot.publish(self.state.study, self.folder.model(model.sha256), model.sha256)
            if model.delta is not None:
                change = model.delta.sha256
                self.depot.publish(self.state.study, self.folder.delta(change), change)
        return task

    def _record(
        self, stage: Stage, outcomes: dict[str, Outcome], made: Aggregate | None, seconds: float
    ) -> dict[str, Any]:
        spent = self.prepared.stages[stage.name].epsilon if exchanges_weights(stage) else None
        record = round_record(
            self.state.number,
            outcomes,
            seconds=seconds,
            model=None if made is None else made.sha256,
            epsilon=None if spent is None else spent[self.state.number - 1],
        )
        for site, factor in ({} if made is None else made.clipped).items():
            record["sites"][site]["shortened_to"] = factor
        return {"stage": stage.name, **record}

    def _report(self, stage: Stage, call: Call, outcome: Outcome) -> None:
        number = call.task.round
        self.folder.journal.event(
            "site.answered",
            stage=stage.name,
            round=number,
            site=call.site,
            status=outcome.status,
            reason=outcome.reason,
            loss=outcome.metrics.get("train.loss"),
            seconds=round(outcome.seconds, 2),
        )
        if outcome.status != "admitted":
            self._note(
                f"{stage.name}, round {number}: {call.site} {outcome.status}, {outcome.reason}."
            )

    # -- 3. how good it is ----------------------------------------------------------------------

    def _check(self) -> None:
        """Scores of models that are trained further, by sites that train nothing."""
        stages = to_check(self.study, self.state)
        found = self._evaluate(stages, self.state.number, held_out_only=True)
        for stage in stages:
            self.folder.write_scores(stage.name, self.state.number, found[stage.name])
        self._commit(self.state.checked(self.study))

    def _score(self) -> None:
        """Scores of the wave's last models, by everybody who can."""
        wave = wave_of(self.study, self.state)
        trained = [stage for stage in wave if exchanges_weights(stage)]
        found = self._evaluate(trained, None, held_out_only=False) if trained else {}
        self._commit(self.state.scored(self.study, found))
        for stage in wave:
            self.folder.journal.event("stage.closed", stage=stage.name)

    def _evaluate(
        self, stages: Sequence[Stage], number: int | None, *, held_out_only: bool
    ) -> dict[str, dict[str, Mapping[str, float]]]:
        """Scores by stage and site; all sites work side by side.

        A site that cannot score a model is a note, no failure.

        Args:
            stages: Whose present models are scored.
            number: Round to name; each stage's last when None.
            held_out_only: Leave training sites to their training.
        """
        calls: list[Call] = []
        standings = self._standings(self.state.inventories)
        for stage in stages:
            sites = admit_evaluation(
                self.study,
                stage,
                self.state.inventories,
                held_out_only=held_out_only,
                consents=standings,
            )
            task = self._task(STAGE, stage, number or stage.rounds, needed_models(STAGE, stage))
            calls += [Call(STAGE, site, task) for site in sites]
        scores: dict[str, dict[str, Mapping[str, float]]] = {stage.name: {} for stage in stages}
        missing: dict[str, dict[str, str]] = {stage.name: {} for stage in stages}
        outcomes = self._ask(calls, limit_s=self.study.study.quorum.deadline_s)
        for (name, site), outcome in sorted(outcomes.items()):
            if outcome.status == "admitted":
                scores[name][site] = outcome.metrics
            else:
                missing[name][site] = outcome.reason or outcome.status
                self._note(f"{name}: {site} could not be scored, {outcome.reason}.")
        for stage in stages:
            name, turn = stage.name, number or stage.rounds
            self.chronicle.gather(scored(self.state, name, turn, scores[name], missing[name]))
            self.folder.journal.event(
                "stage.scored",
                stage=stage.name,
                round=number or stage.rounds,
                sites=sorted(scores[stage.name]),
            )
        return scores

    # -- asking ---------------------------------------------------------------------------------

    def _ask(
        self, calls: Sequence[Call], settle: Settle | None = None, *, limit_s: float | None = None
    ) -> dict[tuple[str, str], Outcome]:
        """What became of every call; a round's own rules on waiting where no limit is given."""
        state, asked = self.state, dict[str, list[str]]()
        for call in calls:
            asked.setdefault(call.task.stage, []).append(call.site)
        gathering = Gathering(
            asked,
            self.study.study.quorum,
            opened=self.clock(),
            slowest=state.slowest,
            absent=set(state.late) - set(self.exchange.sites()) if state.late else (),
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
        ).ask(calls, gathering, settle)

    # -- 4. what is left behind -----------------------------------------------------------------

    def _late(self, call: Call, answer: Answer) -> None:
        task = call.task
        if call.kind in {ROUND, LABEL}:
            self.chronicle.gather(late(task.study, task.stage, task.round, call.site, answer))

    def _commit(self, state: RunState, *entries: Entry) -> None:
        """The one place where a step becomes the past, and where the log is told of it."""
        self.chronicle.gather(*entries)
        state = self.chronicle.written_into(state)
        self.folder.save(state)
        self.state = state
        self.chronicle.settle(state)

    def _tell_closed(self, stage: Stage, record: Mapping[str, Any]) -> None:
        losses = [
            site["metrics"]["train.loss"]
            for site in record["sites"].values()
            if site["status"] == "admitted" and "train.loss" in site["metrics"]
        ]
        self.folder.journal.event(
            "round.closed",
            stage=stage.name,
            round=record["round"],
            of=stage.rounds,
            admitted=record["order"],
            loss=sum(losses) / len(losses) if losses else None,
            seconds=record["seconds"],
        )

    def _tidy_round(self, record: Mapping[str, Any]) -> None:
        """Let go of the updates of a committed round."""
        for name, site in record["sites"].items():
            if "update" in site:
                self.depot.discard(name, site["update"]["sha256"])

    def _tidy(self) -> None:
        """Keep, and offer to sites, what the state names and nothing else."""
        names = files_of(self.state)
        self.folder.keep_only(names)
        self.depot.keep_only(self.state.study, names)
        for name, number in self.state.closed.items():
            Memory(self.folder.memory, name, number).forget()
        while self.let_go:
            self.depot.discard(*self.let_go.pop())

    def end(self, error: StillroomError) -> None:
        """End a study that nobody works on, where it is; one that has ended is left as it is.

        Raises:
            TrustError: STR-514, the folder holds no state of this study.
        """
        self._begin()
        if not self.state.final:
            self._end(error)
        self._finish()

    def _end(self, error: StillroomError) -> None:
        self._commit(self.state.failed(ending(error)))
        self._finish()

    def _finish(self) -> None:
        """Write down how it ended. Killed here: done at the next start, which finds a final state."""
        document = self.folder.journal.read(RESULT)
        if document is None:
            document, sha256 = self.folder.draft(self._result)
            self.chronicle.finish(self.state, finished(document, self.chronicle.run, sha256))
            # Watchers end with the event and then read the document: it must be there.
            self.folder.publish_result()
        if not any(e["event"] == "study.finished" for e in self._events()):
            self.folder.journal.event(
                "study.finished", status=document["status"], error=document["error"]
            )

    def _result(self) -> dict[str, Any]:
        closed = self.state.closed
        rounds = {name: self.folder.rounds(name, number) for name, number in closed.items()}
        seconds = self.wall() - self.state.started_at
        return result(self.study, self.state, rounds, seconds=seconds)

    def _events(self) -> Iterator[dict[str, Any]]:
        return (event for _, event in read_events(self.folder.journal.folder))

    def _note(self, text: str) -> None:
        # A reason may end with a full stop of its own.
        text = f"{text.rstrip('.')}."
        log.warning("study.note", extra={"note": text})
        self.state = self.state.noted(text)


def _slowest(outcomes: Mapping[tuple[str, str], Outcome]) -> dict[str, float]:
    """Stage -> seconds of its slowest usable answer."""
    found: dict[str, float] = {}
    for (stage, _), outcome in outcomes.items():
        if outcome.status == "admitted":
            found[stage] = max(outcome.seconds, found.get(stage, 0.0))
    return found
