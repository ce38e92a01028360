"""Finished answers: the latest of every stage, so that no work is done twice.

::

    <folder>/<kind>.<stage>.json       the answer to one task, and what its stage remembers
    <folder>/memory/<sha256>.safetensors
    <exchange>/updates/<sha256>.safetensors

The JSON file is the commit: it is replaced in one step after everything it names is on the disk.
Killed before that, a site has done nothing and does the work again, from the same memory; killed
after it, the site gives the same answer without any work, for as long as the same is asked.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from stillroom.client.exchange import ExchangeFolder
from stillroom.client.recipes.context import RoundResult
from stillroom.client.recipes.memory import StageMemory, disk_failed
from stillroom.common.canonical import canonical_bytes, digest, file_digest
from stillroom.common.messages import ROUND, STAGE, Reply, Task, UpdateRef
from stillroom.common.tensorfile import write_durably, write_weights

log = logging.getLogger(__name__)

SECONDS_PER_DAY = 86400
GENERATIONS = 2
"""A round that is asked again after its commit, its answer lost, starts where it started before."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Update(_Section):
    base: str
    sha256: str
    nbytes: int


class _Generation(_Section):
    """What a stage remembered after a round."""

    round: int
    sha256: str


class _Answer(_Section):
    """The content of one file.

    Attributes:
        task: Digest of what was asked; empty once the answer counts no more.
        finished_at: Seconds since 1970.
        memory: The latest generations, in order of their rounds.
    """

    task: str
    finished_at: float
    update: _Update | None
    samples: dict[str, int]
    metrics: dict[str, float]
    memory: tuple[_Generation, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one site in one study. One process at a time: the runner.

    Attributes:
        folder: The runner's own.
        exchange: Where updates lie for the courier to read.
        keep_days: An older answer is not given again: what it rests on, such as pseudo-labels, is
            gone by then.
    """

    folder: Path
    exchange: ExchangeFolder
    keep_days: float

    def find(self, kind: str, task: Task) -> Reply | None:
        """The answer to exactly this task, should it have been finished; None: do the work.

        A damaged answer, or an update that is gone or no more what its name says, is no answer.
        """
        kept = self._read(self._path(kind, task.stage))
        if (
            kept is None
            or kept.task != _name(kind, task)
            or time.time() - kept.finished_at > self.keep_days * SECONDS_PER_DAY
        ):
            return None
        if kept.update is not None and not self._is_whole(kept.update):
            log.warning("answers.update_lost", extra={"stage": task.stage, "round": task.round})
            return None
        log.info("answers.again", extra={"stage": task.stage, "round": task.round})
        return _reply(kept)

    def memory(self, kind: str, task: Task) -> StageMemory:
        """What the stage remembers, as a round sees it that starts now.

        Scoring sees what training left, that of its own round included: part of a model may be
        what never left the site.
        """
        if kind == STAGE:
            earlier = self._earlier(ROUND, replace(task, round=task.round + 1))
        else:
            earlier = self._earlier(kind, task)
        return StageMemory(self.folder / "memory", earlier[-1].sha256 if earlier else None)

    def keep(self, kind: str, task: Task, result: RoundResult, saved: str | None = None) -> Reply:
        """Commit a finished answer; when this returns it survives the death of any process.

        A power cut is survived as soon as the disk has the update, which nobody waits for: cut
        before that, its digest is wrong (``find``) and the work is done again, from what the stage
        remembered before it.

        Args:
            kind: Of the task.
            task: What was asked.
            result: What came of it, checked.
            saved: What its memory saved; durable already.

        Raises:
            ResourceError: STR-503, the disk; nothing is committed then.
        """
        try:
            return self._keep(kind, task, result, saved)
        except OSError as error:
            raise disk_failed() from error

    def _keep(self, kind: str, task: Task, result: RoundResult, saved: str | None) -> Reply:
        update = None
        if result.weights is not None:
            # 1. Everything the answer names. Killed here: files without a name, removed below
            #    when the next answer is kept.
            name = write_weights(self.exchange.updates, result.weights, wait=False)
            size = self.exchange.update(name).stat().st_size
            update = _Update(base=task.models[task.stage].sha256, sha256=name, nbytes=size)
        memory = self._earlier(kind, task)[1 - GENERATIONS :]
        if saved is not None:
            memory += (_Generation(round=task.round, sha256=saved),)
        kept = _Answer(
            task=_name(kind, task),
            finished_at=time.time(),
            update=update,
            samples=dict(result.samples),
            metrics=dict(result.metrics),
            memory=memory,
        )
        # 2. The commit.
        self._write(self._path(kind, task.stage), kept)
        # 3. What no answer names any more. Killed here: done after the next one.
        self._tidy()
        return _reply(kept)

    def forget(self) -> None:
        """Give no answer again; the site's cases have changed. What stages remember stays."""
        for path in self.folder.glob("*.json"):
            kept = self._read(path)
            if kept is not None:
                self._write(path, kept.model_copy(update={"task": ""}))

    def _path(self, kind: str, stage: str) -> Path:
        return self.folder / f"{kind}.{stage}.json"

    def _earlier(self, kind: str, task: Task) -> tuple[_Generation, ...]:
        kept = self._read(self._path(kind, task.stage))
        return tuple(g for g in kept.memory if g.round < task.round) if kept is not None else ()

    def _is_whole(self, update: _Update) -> bool:
        path = self.exchange.update(update.sha256)
        try:
            return path.stat().st_size == update.nbytes and file_digest(path) == update.sha256
        except OSError:
            return False

    def _tidy(self) -> None:
        everything = [kept for path in self.folder.glob("*.json") if (kept := self._read(path))]
        self.exchange.keep_updates({k.update.sha256 for k in everything if k.update is not None})
        remembered = {g.sha256 for kept in everything for g in kept.memory}
        for path in (self.folder / "memory").glob("*"):
            if path.stem not in remembered:
                path.unlink(missing_ok=True)

    def _write(self, path: Path, kept: _Answer) -> None:
        value = kept.model_dump(mode="json")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, canonical_bytes({"answer": value, "sha256": digest(value)}))

    @staticmethod
    def _read(path: Path) -> _Answer | None:
        try:
            value = json.loads(path.read_bytes())
            if digest(value["answer"]) != value["sha256"]:
                raise ValueError("other content than its digest says")
            return _Answer.model_validate(value["answer"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            # Not evidence of anything and no reason to stop: the work is done again, with a
            # fresh memory.
            log.warning("answers.damaged")
            return None


def _name(kind: str, task: Task) -> str:
    """A task's name: equal for what must be answered equally."""
    models: Mapping[str, str] = {name: ref.sha256 for name, ref in task.models.items()}
    return digest([kind, task.study, task.stage, task.round, models])


def _reply(kept: _Answer) -> Reply:
    update = None
    if kept.update is not None:
        update = UpdateRef("fp32", kept.update.base, kept.update.sha256, kept.update.nbytes)
    return Reply(update, kept.samples, kept.metrics)
