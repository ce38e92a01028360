"""Our side of the bench: one study with real processes, measured like the peers."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from consortium import Consortium, child_name
from peers.measured import Measured, rounds_of
from plan import Plan, records
from sampling import Sampler, Track
from wirecount import WireCount

SERVERS = ("link", "exec", "app")
MIB = 2**20


def measure(
    name: str,
    plan: Plan,
    *,
    timeout_s: float = 600,
    turns: int = 0,
    every_s: float = 0.2,
    hooks: Mapping[str, Any] | None = None,
) -> Measured:
    """Run a plan and say what its rounds cost.

    Args:
        name: Of the row.
        plan: What to run.
        timeout_s: For the whole study.
        turns: How many runners may train at once; 0 for all. For more sites than fit in memory.
        every_s: Between two looks at every process.
        hooks: What else is changed in its processes (``inject/hooks``).
    """
    consortium = Consortium(plan, {**({"turns": turns} if turns else {}), **(hooks or {})})
    plan.out.mkdir(parents=True, exist_ok=True)
    consortium.found()
    edge = consortium.ports[1]
    try:
        with (
            Sampler(consortium.pid_of, child=child_name, every_s=every_s) as sampler,
            WireCount(lambda: edge) as wire,
        ):
            consortium.start_all()
            events = consortium.wait(timeout_s)
    finally:
        consortium.stop()
    if events[-1]["status"] != "completed":
        raise RuntimeError(f"{name}: the study ended with {events[-1]}")
    spans = _spans(events)
    found = rounds_of(name, sampler, spans, servers=SERVERS)
    found.count(wire, spans, plan.sites)
    found.files = _files(plan)
    found.phases = [_phases(events, number) for number in range(1, plan.rounds + 1)]
    return found


def _spans(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Start and end of every round, as the run told them."""
    opened = {e["round"]: e["t"] for e in events if e["event"] == "round.opened"}
    closed = {e["round"]: e["t"] for e in events if e["event"] == "round.closed"}
    return [(opened[n], closed[n]) for n in sorted(closed)]


def _files(plan: Plan) -> list[dict[str, float]]:
    """Bytes of files per site, by round: up and down, as shares of the model too."""
    model = plan.manifest.nbytes
    rows = []
    for record in records(plan.layout.run):
        sites = record["sites"].values()
        up = statistics.mean(site["bytes_up"] for site in sites)
        down = statistics.mean(site["bytes_down"] for site in sites)
        rows.append(
            {
                "up": up,
                "down": down,
                "up_over_model": round(up / model, 4),
                "down_over_model": round(down / model, 4),
            }
        )
    return rows


def _phases(events: list[dict[str, Any]], number: int) -> dict[str, float]:
    """Seconds from the opening of a round to its first and last answer, and to its commit."""
    ours = [e for e in events if e.get("round") == number]
    start = min(e["t"] for e in ours if e["event"] == "round.opened")
    answers = [e["t"] for e in ours if e["event"] == "site.answered"]
    end = max(e["t"] for e in ours if e["event"] == "round.closed")
    moments = {"first_answer": min(answers), "last_answer": max(answers), "committed": end}
    return {name: round(t - start, 2) for name, t in moments.items()}


@dataclass(frozen=True)
class Soak:
    """A long study of a small model.

    Attributes:
        rounds: How many were run.
        round_s: Median seconds of a round.
        slope: Process -> KiB of resident memory gained per round, over its second half.
        gained: Process -> KiB gained between the first and the last fifth of the soak.
        files: Process -> open descriptors after a tenth of it and at its end, medians.
        memory: Process -> resident MiB in the course of it, medians of equal spans of time.
    """

    rounds: int
    round_s: float
    slope: dict[str, float]
    gained: dict[str, float]
    files: dict[str, tuple[int, int]]
    memory: dict[str, list[float]]


def soak(plan: Plan, *, timeout_s: float) -> Soak:
    """Run a long study and look at memory and descriptors of every process."""
    consortium = Consortium(plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    consortium.found()
    try:
        with Sampler(consortium.pid_of, child=child_name, every_s=1.0) as sampler:
            consortium.start_all()
            opened = time.time()
            events = consortium.wait(timeout_s)
    finally:
        consortium.stop()
    spans = _spans(events)
    per_round = (spans[-1][1] - spans[0][0]) / len(spans)
    lives = {name: tracks[-1] for name, tracks in sampler.tracks.items()}
    return Soak(
        rounds=len(spans),
        round_s=statistics.median(end - start for start, end in spans),
        slope={
            n: _slope(track, max(opened, spans[0][0])) * per_round for n, track in lives.items()
        },
        gained={name: _gained(track) for name, track in lives.items()},
        files={name: _descriptors(track) for name, track in lives.items()},
        memory={name: _course(track, spans[0][0]) for name, track in lives.items()},
    )


def _slope(track: Track, start: float) -> float:
    """KiB a second over the second half: the first half warms caches up."""
    looks = [look for look in track.looks if look.t >= start]
    looks = looks[len(looks) // 2 :]
    t = np.array([look.t for look in looks])
    kib = np.array([look.rss for look in looks]) / 1024
    return float(np.polyfit(t - t[0], kib, 1)[0]) if len(looks) > 2 else 0.0


def _gained(track: Track) -> float:
    fifth = max(1, len(track.looks) // 5)
    first, last = track.looks[fifth : 2 * fifth], track.looks[-fifth:]
    middle = [statistics.median(look.rss for look in part) for part in (first or last, last)]
    return (middle[1] - middle[0]) / 1024


def _descriptors(track: Track) -> tuple[int, int]:
    tenth = max(1, len(track.looks) // 10)
    parts = track.looks[tenth : 2 * tenth] or track.looks, track.looks[-tenth:]
    first, last = (int(statistics.median(look.files for look in part)) for part in parts)
    return first, last


def _course(track: Track, start: float, spans: int = 100) -> list[float]:
    looks = [look for look in track.looks if look.t >= start] or track.looks
    parts = np.array_split([look.rss / 2**20 for look in looks], min(spans, len(looks)))
    return [round(float(np.median(part)), 2) for part in parts]


def as_row(measured: Measured, **more: Any) -> Mapping[str, Any]:
    """For ``performance.json``."""
    return {**measured.as_json(), **more}


def scratch(root: Path, name: str) -> Path:
    """A new folder."""
    return root / name.replace(" ", "-").replace(",", "")
