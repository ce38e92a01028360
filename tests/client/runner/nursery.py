"""Runners that die at named moments, forked from one process that has imported everything once.

Reads one JSON object a line from stdin, starts a real runner in a process of its own and writes its
process id; a line with such an id is answered with how that process ended.
The recipe it runs is a stand-in: it writes a line for each of its steps into ``trace`` and learns
something that it could not learn a second time.
"""

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.client import answers, runner
from stillroom.client.answers import Answers
from stillroom.client.recipes import registry
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.client.runner import RunnerSettings, run_runner
from stillroom.common.errors import ResourceError, StillroomError
from stillroom.common.lifetime import leave_within, stop_on_signals
from stillroom.common.messages import Task

STEPS = 4


@dataclass(frozen=True)
class Point:
    """Where this process kills itself, if it should; each moment comes once."""

    name: str

    def reached(self, name: str) -> None:
        """The moment called ``name`` is here."""
        if name == self.name:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class StandIn:
    """A recipe."""

    trace: Path
    point: Point
    step_s: float

    def run(self, order: RecipeContext) -> RoundResult:
        """Steps that leave a trace; the memory counts rounds."""
        self.point.reached("before training")
        memory = order.memory.load()
        rounds = 0.0 if memory is None else float(memory["rounds"])
        for number in range(STEPS):
            if order.should_stop():
                raise ResourceError("Stopped.", fix="Start it again.", code="STR-502")
            self._note(f"step {order.round} {rounds:g}")
            time.sleep(self.step_s)
            if number == STEPS // 2:
                self.point.reached("while training")
        order.memory.save({"rounds": np.asarray(rounds + 1)})
        self._note(f"trained {order.round}")
        self.point.reached("after training")
        unique = int.from_bytes(secrets.token_bytes(2))
        weights = {name: value + unique for name, value in (order.weights or {}).items()}
        return RoundResult(weights, {"trunk": 7, "head": 7}, {"train.loss": float(unique)})

    def _note(self, line: str) -> None:
        with self.trace.open("a") as stream:
            stream.write(line + "\n")


def plant(point: Point) -> None:
    """Put the moments of a commit and of a reply where they are."""
    write, write_durably = answers.write_weights, answers.write_durably
    keep, push = Answers.keep, runner.push_message

    def noted_write(folder: Path, weights: Any, *, wait: bool) -> str:
        name = write(folder, weights, wait=wait)
        point.reached("update written")
        return name

    def noted_commit(path: Path, data: bytes) -> None:
        if point.name == "while committing":
            path.with_name(path.name + ".tmp").write_bytes(data[: len(data) // 2])
        point.reached("while committing")
        write_durably(path, data)

    def noted_keep(self: Answers, kind: str, task: Task, *more: Any) -> Any:
        reply = keep(self, kind, task, *more)
        point.reached("committed")
        return reply

    def noted_push(client: Any, reply: Any, context: Any) -> None:
        deliver: Callable[[Any], Any] = client.PushObject
        left = [2]

        def count(request: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                point.reached("while replying")
            return deliver(request)

        client.PushObject = count
        push(client, reply, context)
        point.reached("replied")

    answers.write_weights, answers.write_durably = noted_write, noted_commit
    Answers.keep = noted_keep  # type: ignore[method-assign]
    runner.push_message = noted_push


def child(order: dict[str, Any]) -> None:
    """One runner, as the command starts it."""
    stop = stop_on_signals()
    leave_within(stop, 1.5)
    point = Point(order["kill_at"])
    plant(point)
    registry.RECIPES["teach"] = StandIn(Path(order["trace"]), point, order["step_s"])
    settings = RunnerSettings(
        Path(order["site_config"]), order["runtime_port"], order["secret"].encode()
    )
    run_runner(settings, stop)


def say(number: int) -> None:
    """Answer with one line."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        if line.strip().isdigit():
            _, status = os.waitpid(int(line), 0)
            say(os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if not pid:
            os.close(0)
            try:
                child(json.loads(line))
            except StillroomError as error:
                os._exit(error.exit_status)
            finally:
                os._exit(0)
        say(pid)


if __name__ == "__main__":
    main()
