"""One study from its first question to its student. Decisions are in ``rounds``, sending in ``app``."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stillroom.common.consent import Standing
from stillroom.common.errors import ConfigError, ResourceError, StillroomError
from stillroom.common.manifest import Weights
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Task, tensor_bytes
from stillroom.common.study import PreparedStudy, Stage, Study
from stillroom.common.tensorfile import read_weights, weights_digest, write_weights
from stillroom.common.update import check_task
from stillroom.server.rounds.admission import (
    Inventory,
    admit,
    admit_evaluation,
    without_consent,
)
from stillroom.server.rounds.averaging import GroupAverage
from stillroom.server.rounds.outcome import (
    Answer,
    Outcome,
    judge,
    mean_metric,
    require_quorum,
    round_record,
)
from stillroom.server.rounds.schedule import exchanges_weights, waves
from stillroom.server.rounds.scores import tabulate
from stillroom.server.store.journal import Journal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One task for one site; ``kind`` is a key of ``messages.MESSAGE_TYPES``."""

    kind: str
    site: str
    task: Task


class Exchange(Protocol):
    """Sends tasks and brings answers. ``app`` implements it on Flower's Grid."""

    def sites(self) -> tuple[str, ...]:
        """Connected sites, sorted."""
        ...

    def ask(self, calls: Sequence[Call], *, deadline_s: float) -> Iterator[tuple[Call, Answer]]:
        """Send every call and yield answers in the order of ``calls``, one in memory at a time."""
        ...


@dataclass(slots=True)
class StudyRun:
    """Runs a prepared study and writes what happened into its journal.

    Attributes:
        prepared: The study every site accepted.
        weights_dir: Where the initial weights lie.
        exchange: The way to the sites.
        journal: Where everything is recorded.
        consents: Site -> standing of its consent, asked before every round; None where no
            registry is kept.
    """

    prepared: PreparedStudy
    weights_dir: Path
    exchange: Exchange
    journal: Journal
    models: dict[str, Weights] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    inventories: dict[str, Inventory] = field(default_factory=dict)
    stages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scores: dict[str, dict[str, Mapping[str, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    consents: Callable[[], Mapping[str, Standing]] | None = None
    standings: dict[str, Standing] | None = None
    left: dict[str, str] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """The study file."""
        return self.prepared.study

    def run(self) -> None:
        """The whole study; every way out leaves a ``result.json`` that says how it ended.

        Raises:
            StillroomError: Why the study could not be finished, after recording it.
        """
        started = time.time()
        self.journal.event("study.started", study=self.prepared.digest)
        try:
            self._take_inventory()
            for wave in waves(self.study):
                self._run_wave(wave)
        except StillroomError as error:
            self._finish(started, error)
            raise
        except (KeyboardInterrupt, SystemExit):
            # Flower ends a stopped run's process with a signal.
            self._finish(started, stopped())
            raise
        except Exception:
            # A defect of ours. Whoever waits for this run must still learn that it has ended.
            log.exception("study.broken")
            self._finish(started, broken())
            raise
        self._finish(started, None)

    # -- 1. who is there, and with what ------------------------------------------------------

    def _take_inventory(self) -> None:
        standings = self._standings(self.exchange.sites())
        calls = [
            Call(INVENTORY, site, Task(self.prepared.digest))
            for site in self.exchange.sites()
            if site not in self.left
        ]
        for call, answer in self.exchange.ask(calls, deadline_s=self.study.study.quorum.deadline_s):
            outcome = judge(answer, kind=INVENTORY, stage="", prepared=self.prepared, bytes_down=0)
            if outcome.status == "admitted":
                self.inventories[call.site] = outcome.metrics
                if not outcome.metrics.get("inventory.cases"):
                    self._note(f"{call.site} has no usable case.")
            else:
                self._note(f"{call.site} takes no part: {outcome.reason}.")
            self.journal.event(
                "site.inventory",
                site=call.site,
                status=outcome.status,
                reason=outcome.reason,
                counts=dict(outcome.metrics),
            )
        # A label nobody owns is known now; it must not cost an hour of other stages first.
        for stage in self.study.stage:
            admit(self.study, stage, self.inventories, standings)

    def _standings(self, sites: Iterable[str]) -> Mapping[str, Standing] | None:
        """What every site has said by now; whoever has not consented is noted once, with why."""
        if self.consents is not None:
            self.standings = dict(self.consents())
        for site in sites:
            why = without_consent(self.standings, site)
            if why is not None and self.left.get(site) != why:
                self.left[site] = why
                self._note(f"{site} takes no part: {why}.")
                self.journal.event("site.left_out", site=site, reason=why)
        return self.standings

    # -- 2. the stages, those that need nothing of each other side by side ---------------------

    def _run_wave(self, wave: tuple[Stage, ...]) -> None:
        for stage in wave:
            self.stages[stage.name] = []
            if exchanges_weights(stage):
                initial = self.prepared.stages[stage.name].initial_sha256
                self.models[stage.name] = read_weights(self.weights_dir, initial)
                self.digests[stage.name] = initial
            self.journal.event("stage.opened", stage=stage.name, recipe=stage.recipe)
        for number in range(1, max(stage.rounds for stage in wave) + 1):
            active = [stage for stage in wave if number <= stage.rounds]
            self._run_round(active, number)
        trained = [stage for stage in wave if exchanges_weights(stage)]
        for stage in trained:
            self.digests[stage.name] = write_weights(
                self.journal.folder / "weights", self.models[stage.name]
            )
        if trained:
            self.scores |= self._evaluate(trained, None, held_out_only=False)
        for stage in wave:
            self.journal.event("stage.closed", stage=stage.name)

    def _run_round(self, active: Sequence[Stage], number: int) -> None:
        opened = time.monotonic()
        by_stage = {stage.name: stage for stage in active}
        calls: list[Call] = []
        standings = self._standings(self.inventories)
        for stage in active:
            admission = admit(self.study, stage, self.inventories, standings)
            # One task object for all sites of a stage: it is packed, and kept, once.
            kind, task = self._task(stage, number)
            calls += [Call(kind, site, task) for site in admission.invited]
            self.journal.event(
                "round.opened",
                stage=stage.name,
                round=number,
                of=stage.rounds,
                invited=list(admission.invited),
                left_out=dict(admission.left_out),
            )
        sums = {
            stage.name: GroupAverage(self.prepared.stages[stage.name].manifest)
            for stage in active
            if exchanges_weights(stage)
        }
        outcomes: dict[str, dict[str, Outcome]] = {stage.name: {} for stage in active}
        deadline = self.study.study.quorum.deadline_s
        for call, answer in self.exchange.ask(calls, deadline_s=deadline):
            outcome = self._admit_answer(call, answer, sums.get(call.task.stage))
            outcomes[call.task.stage][call.site] = outcome
            self._report(by_stage[call.task.stage], number, call.site, outcome)
        for stage in active:
            self._close_round(stage, number, outcomes[stage.name], sums.get(stage.name), opened)

    def _task(self, stage: Stage, number: int) -> tuple[str, Task]:
        task = Task(
            study=self.prepared.digest,
            stage=stage.name,
            round=number,
            weights=self.models[stage.name] if exchanges_weights(stage) else None,
            teachers={name: self.models[name] for name in stage.teachers},
        )
        kind = ROUND if exchanges_weights(stage) else LABEL
        # The rules a site holds us to, held here first: nothing but the stage's tensors goes out.
        check_task(kind, task, self.prepared)
        return kind, task

    def _admit_answer(self, call: Call, answer: Answer, total: GroupAverage | None) -> Outcome:
        """Judge one answer and, when it counts, add it to the sum at once and let it go."""
        outcome = self._judge(call, answer)
        if outcome.status == "admitted" and total is not None and answer.reply is not None:
            total.add(answer.reply.weights or {}, outcome.samples)
        return outcome

    def _judge(self, call: Call, answer: Answer) -> Outcome:
        return judge(
            answer,
            kind=call.kind,
            stage=call.task.stage,
            prepared=self.prepared,
            bytes_down=_task_bytes(call.task),
        )

    def _report(self, stage: Stage, number: int, site: str, outcome: Outcome) -> None:
        self.journal.event(
            "site.answered",
            stage=stage.name,
            round=number,
            site=site,
            status=outcome.status,
            reason=outcome.reason,
            loss=outcome.metrics.get("train.loss"),
            seconds=round(outcome.seconds, 2),
        )
        if outcome.status != "admitted":
            self._note(f"{stage.name}, round {number}: {site} {outcome.status}, {outcome.reason}.")

    def _close_round(
        self,
        stage: Stage,
        number: int,
        outcomes: dict[str, Outcome],
        total: GroupAverage | None,
        opened: float,
    ) -> None:
        """Commit one round: average, record, then tell."""
        require_quorum(self.study, stage.name, outcomes)
        if total is not None:
            self.models[stage.name] = total.finish(self.models[stage.name])
        digest = weights_digest(self.models[stage.name]) if total is not None else None
        record = round_record(number, outcomes, seconds=time.monotonic() - opened, model=digest)
        every = stage.evaluate_every
        if total is not None and every and number % every == 0 and number < stage.rounds:
            record["evaluation"] = self._evaluate([stage], number, held_out_only=True)[stage.name]
        self.stages[stage.name].append(record)
        self.journal.write(f"round-{stage.name}-{number:04d}.json", record)
        self.journal.event(
            "round.closed",
            stage=stage.name,
            round=number,
            of=stage.rounds,
            admitted=record["order"],
            loss=mean_metric(outcomes, "train.loss"),
            seconds=record["seconds"],
        )

    # -- 3. how good it is ----------------------------------------------------------------------

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
        standings = self._standings(self.inventories)
        for stage in stages:
            sites = admit_evaluation(
                self.study,
                stage,
                self.inventories,
                held_out_only=held_out_only,
                consents=standings,
            )
            at = number or stage.rounds
            task = Task(self.prepared.digest, stage.name, at, weights=self.models[stage.name])
            check_task(STAGE, task, self.prepared)
            calls += [Call(STAGE, site, task) for site in sites]
        scores: dict[str, dict[str, Mapping[str, float]]] = {stage.name: {} for stage in stages}
        for call, answer in self.exchange.ask(calls, deadline_s=self.study.study.quorum.deadline_s):
            outcome = self._judge(call, answer)
            if outcome.status == "admitted":
                scores[call.task.stage][call.site] = outcome.metrics
            else:
                self._note(f"{call.task.stage}: {call.site} could not be scored, {outcome.reason}.")
        for stage in stages:
            self.journal.event(
                "stage.scored",
                stage=stage.name,
                round=number or stage.rounds,
                sites=sorted(scores[stage.name]),
            )
        return scores

    # -- 4. what is left behind -----------------------------------------------------------------

    def _finish(self, started: float, error: StillroomError | None) -> None:
        held_out = set(self.study.study.held_out)
        tables = {
            name: tabulate(self.study, scores, held_out & scores.keys() or scores.keys())
            for name, scores in self.scores.items()
        }
        student = next((s.name for s in reversed(self.study.stage) if s.recipe == "distil"), None)
        complete = error is None and not self.notes
        result = {
            "status": "failed" if error else "completed",
            "complete_participation": complete,
            "error": None if error is None else vars_of(error),
            "study_name": self.study.study.name,
            "study_digest": self.prepared.digest,
            "seed": self.study.study.seed,
            "started_at": started,
            "seconds": round(time.time() - started, 3),
            "student": {"stage": student, "sha256": self.digests.get(student or "")},
            "models": dict(self.digests),
            "sites": [
                {"name": site, "role": "held_out" if site in held_out else "train"}
                for site in sorted(self.inventories)
            ],
            "inventories": {site: dict(counts) for site, counts in self.inventories.items()},
            "stages": [
                {"name": s.name, "recipe": s.recipe, "rounds": self.stages.get(s.name, [])}
                for s in self.study.stage
            ],
            "metrics": tables.get(student or "", {}),
            "teachers": {name: table for name, table in tables.items() if name != student},
            "consents": self.standings,
            "notes": self.notes,
        }
        self.journal.write("result.json", result)
        self.journal.event("study.finished", status=result["status"], error=result["error"])

    def _note(self, text: str) -> None:
        log.warning("study.note", extra={"note": text})
        self.notes.append(text)


def stopped() -> StillroomError:
    """What is recorded when somebody stopped the run."""
    return ResourceError("The run was stopped.", fix="Start it again.", code="STR-508")


def broken() -> StillroomError:
    """What is recorded for an exception nobody expected: nothing of its text."""
    return ResourceError(
        "The study ended because of a defect in the server's program.",
        fix="Read the log of the SuperExec and report it.",
        code="STR-505",
    )


def vars_of(error: StillroomError) -> dict[str, Any]:
    """An error as it is recorded and shown again by another process."""
    return {
        "code": error.code,
        "what": error.what,
        "fix": error.fix,
        "exit_status": error.exit_status,
    }


def _task_bytes(task: Task) -> int:
    return tensor_bytes(task.weights) + sum(tensor_bytes(w) for w in task.teachers.values())


def require_student(study: Study) -> None:
    """Refuse a study that ends without a student.

    Raises:
        ConfigError: STR-103.
    """
    if not any(stage.recipe == "distil" for stage in study.stage):
        raise ConfigError(
            "The study has no distil stage, so there would be nothing to release.",
            fix="Add one.",
            code="STR-103",
        )
