"""The kill matrix: which process dies, and at which moment of a round.

A point is a function of the product, looked up by name: when one is renamed its point is never
reached, and the run fails and says so. Points marked ``while`` die a few milliseconds into the call.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

COURIER, RUNNER, SITE = "site-001", "site-002", "site-003"
"""Each kind of kill at a site has its own site, so that one does not count another's calls."""
LINK, APP, WORKER, GATEWAY = "SuperLink", "server app", "runner", "courier"
WHOLE = "whole site"

_CLIENT, _SERVER = "stillroom.client", "stillroom.server"

NOTHING_KEPT = ("trained, nothing kept", "update written, answer not")
"""Killed between the end of a training and the commit of its answer: that round is trained again."""


@dataclass(frozen=True)
class Point:
    """One moment.

    Attributes:
        who: Dies.
        moment: In words.
        role: The process in which the moment is noticed.
        target: ``module:qualname``.
        when: ``before``, ``during`` or ``after`` its call.
        calls: How often it is called in a round; what is called once per study has 0.
    """

    who: str
    moment: str
    role: str
    target: str
    when: str
    calls: int = 1

    @property
    def site(self) -> str:
        """Where; empty for the server."""
        return {GATEWAY: COURIER, WORKER: RUNNER, WHOLE: SITE}.get(self.who, "")

    @property
    def victims(self) -> list[str]:
        """Names of the processes that die, when it is not the one that notices."""
        if self.who == WHOLE:
            return [f"{SITE}-courier", f"{SITE}-runner"]
        return ["link"] if self.who == LINK and self.role != "link" else []


def _points(who: str, *rows: tuple[str, str, str, str, int]) -> Iterator[Point]:
    for moment, place, target, when, calls in rows:
        role, _, module = place.partition(" ")
        yield Point(who, moment, role, f"{module}:{target}", when, calls)


def _of_runner(who: str) -> Iterator[Point]:
    """Moments that are noticed in a runner."""
    yield from _points(
        who,
        ("before training", "runner recipe", "Noise.run", "before", 1),
        ("while training", "runner recipe", "Noise.run", "during", 1),
        (NOTHING_KEPT[0], "runner recipe", "Noise.run", "after", 1),
        (NOTHING_KEPT[1], f"runner {_CLIENT}.answers", "Answers._write", "before", 1),
        ("answer kept, not told", f"runner {_CLIENT}.answers", "Answers.keep", "after", 1),
        ("while answering", f"runner {_CLIENT}.runner", "_deliver", "during", 1),
        ("answered", f"runner {_CLIENT}.runner", "_deliver", "after", 1),
    )


def _of_courier(who: str) -> Iterator[Point]:
    """Moments that are noticed in a courier."""
    yield from _points(
        who,
        ("before the task is read", f"courier {_CLIENT}.gate", "Gate.admit", "before", 1),
        (
            "before the model is fetched",
            f"courier {_CLIENT}.transfer",
            "Transfer.fetch",
            "before",
            1,
        ),
        (
            "while the model is fetched",
            f"courier {_CLIENT}.transfer",
            "Transfer.fetch",
            "during",
            1,
        ),
        (
            "model there, task not handed on",
            f"courier {_CLIENT}.models",
            "Models.bring",
            "after",
            1,
        ),
        ("before encoding", f"courier {_CLIENT}.outbox", "Outbox.seal", "before", 1),
        ("while encoding", f"courier {_CLIENT}.outbox", "Outbox._make", "during", 1),
        ("encoded, not in the ledger", f"courier {_CLIENT}.outbox", "Outbox.seal", "after", 1),
        ("before uploading", f"courier {_CLIENT}.transfer", "Transfer.send", "before", 1),
        ("while uploading", f"courier {_CLIENT}.transfer", "Transfer._pour", "during", 1),
        ("uploaded, not told", f"courier {_CLIENT}.transfer", "Transfer.send", "after", 1),
        ("told", f"courier {_CLIENT}.carriage", "Carriage._send", "after", 1),
    )


def _of_app() -> Iterator[Point]:
    rounds, store = f"{_SERVER}.rounds", f"{_SERVER}.store.folder"
    yield from _points(
        APP,
        ("before the model is published", f"app {_SERVER}.depot", "Depot.publish", "before", 1),
        ("model published, nobody asked", f"app {_SERVER}.depot", "Depot.publish", "after", 1),
        (
            "before the first update is added",
            f"app {rounds}.aggregate",
            "RoundSum.add",
            "before",
            3,
        ),
        ("while an update is added", f"app {rounds}.aggregate", "RoundSum.add", "during", 3),
        ("all updates added", f"app {rounds}.aggregate", "RoundSum.finish", "before", 1),
        ("while the new model is written", f"app {rounds}.successor", "Successor.put", "before", 6),
        ("new model written", f"app {rounds}.aggregate", "RoundSum.finish", "after", 1),
        ("record written, not committed", f"app {store}", "RunFolder.write_round", "after", 1),
        ("while committing", f"app {store}", "RunFolder.save", "during", 1),
        ("committed, not told", f"app {store}", "RunFolder.save", "after", 1),
    )


def _of_link() -> Iterator[Point]:
    depot, upload = f"link {_SERVER}.depot", f"link {_SERVER}.upload"
    yield from _points(
        LINK,
        ("before sending the model", depot, "Depot.outgoing", "before", 3),
        ("while sending the model", f"link {_SERVER}.depot_api", "_pieces", "during", 3),
        ("while the sites train", "runner recipe", "Noise.run", "during", 1),
        ("before an upload", depot, "Depot.begin", "before", 3),
        ("while an upload comes in", upload, "Upload.write", "after", 6),
        ("upload here, not in place", upload, "Upload.finish", "before", 3),
        ("upload in place, site not told", upload, "Upload.finish", "after", 3),
        ("while aggregating", f"app {_SERVER}.rounds.successor", "Successor.put", "before", 6),
        ("before committing", f"app {_SERVER}.store.folder", "RunFolder.save", "before", 1),
        ("committed", f"app {_SERVER}.store.folder", "RunFolder.save", "after", 1),
    )


FETCHES = frozenset(
    {
        "before sending the model",
        "while sending the model",
        "before the model is fetched",
        "while the model is fetched",
    }
)
SETUP_SAVES = 2
"""States saved before the first round is committed: sites counted, wave opened."""

MATRIX: dict[str, tuple[Point, ...]] = {
    APP: tuple(_of_app()),
    LINK: tuple(_of_link()),
    GATEWAY: tuple(_of_courier(GATEWAY)),
    WORKER: tuple(_of_runner(WORKER)),
    WHOLE: (*tuple(_of_runner(WHOLE))[1::2], *tuple(_of_courier(WHOLE))[2::2]),
}


def hook(point: Point, number: int, round_: int, chance: random.Random) -> dict[str, Any]:
    """A point as a hook that is reached in round ``round_``."""
    once = chance.randrange(point.calls)
    if point.moment in FETCHES:
        # The first round's model came with the prepared study.
        round_ = max(2, round_)
    call = point.calls * (round_ - 1 - (point.moment in FETCHES)) + 1 + once
    if point.target.endswith("RunFolder.save"):
        call += SETUP_SAVES
    return {
        "id": f"{number:03d}",
        "who": point.who,
        "moment": point.moment,
        "role": point.role,
        "site": point.site,
        "target": point.target,
        "when": point.when,
        "call": call,
        "delay_s": round(chance.uniform(0.0005, 0.004), 4),
        "victims": point.victims,
        "round": round_,
    }


def studies(seed: int, rounds: int) -> list[list[dict[str, Any]]]:
    """The whole matrix as studies of one kill of each kind, in rounds drawn by ``seed``."""
    chance = random.Random(seed)  # noqa: S311  # repeatable
    width = max(map(len, MATRIX.values()))
    found, number = [], 0
    for at in range(width):
        study = []
        for rows in MATRIX.values():
            if at < len(rows):
                number += 1
                # A first round has no base and a last one no successor: both are drawn, too.
                study.append(hook(rows[at], number, chance.randint(1, rounds), chance))
        found.append(study)
    return found


def chosen(names: Sequence[tuple[str, str]], rounds: int = 2) -> list[dict[str, Any]]:
    """Hooks of some points by (who, moment), for a sample."""
    chance = random.Random(0)  # noqa: S311  # repeatable
    rows = [p for who, moment in names for p in MATRIX[who] if p.moment == moment]
    return [hook(p, n, min(n, rounds), chance) for n, p in enumerate(rows, 1)]
