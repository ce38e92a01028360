"""``noise`` as a recipe of the runner, for the hooks."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import noise
from learning import learner_of


class Noise:
    """In place of training: reads nothing of a patient, learns nothing, and says what it did."""

    def __init__(self, settings: dict[str, Any], site: str) -> None:
        self.settings, self.site = settings, site
        self.turn: int | None = None
        self.learner: Any = None

    def run(self, context: Any) -> Any:
        """The weights sent plus this site's noise of this stage and round."""
        from stillroom.client.recipes.context import RoundResult

        site = self.site or context.store.ids()[0].rsplit("-", 1)[0]
        started = time.perf_counter()
        self._wait_for_turn()
        self._note(site, "started", context)
        end = time.monotonic() + self.settings.get("seconds", 0.0)
        while time.monotonic() < end:
            time.sleep(0.005)
        weights = self._trained(context, site)
        samples = dict(self.settings["samples"][site])
        self._note(site, "ended", context)
        numbers = {
            "train.loss": 1.0 / context.round,
            "train.cases": max(samples.values()),
            "train.seconds": time.perf_counter() - started,
        }
        return RoundResult(weights, samples, numbers)

    def _trained(self, context: Any, site: str) -> Any:
        """Noise, or what a few real steps make of the weights."""
        if self.learner is None:
            self.learner = learner_of(self.settings)
        if self.learner is None:
            return noise.trained(context.weights, site, context.stage.name, context.round)
        return self.learner.train(context.weights, context.round)

    def _wait_for_turn(self) -> None:
        """Where memory is short, only some may train, and write their update, at once."""
        slots = [
            Path(self.settings["log"]) / f"turn{n}" for n in range(self.settings.get("turns", 0))
        ]
        while slots and self.turn is None:
            for slot in slots:
                descriptor = os.open(slot, os.O_CREAT | os.O_RDWR, 0o644)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    continue
                self.turn = descriptor
                return
            time.sleep(0.1)

    def give_turn_back(self) -> None:
        """The update is on disk."""
        if self.turn is not None:
            os.close(self.turn)
            self.turn = None

    def _note(self, site: str, what: str, context: Any) -> None:
        line = {"what": what, "stage": context.stage.name, "round": context.round, "t": time.time()}
        path = Path(self.settings["log"]) / f"{site}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, (json.dumps({**line, "pid": os.getpid()}) + "\n").encode())
        os.close(descriptor)
