"""The half of ``make bench`` that becomes docs/reference/performance.md and performance.json.

Ours and the peers take turns in one run, on one machine: what counts are ratios.

    python -P tests/bench/performance.py [--cycles 2] [--only main,scale,tiny,...]
                                         [--soak-rounds 500] [--many 16] [--scratch FOLDER]
                                         [--join FOLDER,FOLDER]

With ``--scratch`` what was measured stays there, and a later run with ``--only`` replaces its parts.
``--join`` takes over the parts of other scratch folders; ``--only none`` measures nothing and writes
the page. A part is one run; every part says on the page how loaded the machine was before it.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "inject")]

import models  # noqa: E402  # beside this file, which is no package
import page  # noqa: E402
import studies  # noqa: E402
from peers.flare import Flare, python_of  # noqa: E402
from peers.flower import PlainFlower  # noqa: E402
from plan import Plan  # noqa: E402

ENCODINGS = ("fp32", "bf16-delta", "int8-delta")
PARTS = ("main", "scale", "tiny", "simulation", "training", "aggregation", "soak")
MIB = 2**20


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


class Bench:
    """One run of everything.

    Args:
        root: Scratch folder; emptied of every study once it was measured.
        cycles: How often ours and the peers take turns.
        soak_rounds: Length of the soak.
        many: The largest number of sites with real processes.
    """

    def __init__(self, root: Path, cycles: int, soak_rounds: int, many: int) -> None:
        self.root, self.cycles, self.soak_rounds, self.many = root, cycles, soak_rounds, many
        self.shapes = models.swin_unetr(root / "swin-unetr.json")
        self.model = 4 * sum(_size(shape) for shape in self.shapes.values())
        self.flare, self.why_not = python_of()
        self.number = 0

    def out(self) -> Path:
        """A new folder."""
        self.number += 1
        while (out := self.root / f"study-{self.number:03d}").exists():
            self.number += 1  # an earlier run with the same --scratch
        return out

    def ours(self, encoding: str, **more: Any) -> dict[str, Any]:
        """One study of ours."""
        turns, timeout_s = more.pop("turns", 0), more.pop("timeout_s", 600.0)
        settings = {"shapes": self.shapes, "rounds": 3, **more}
        plan = Plan(out=self.out(), stage={"exchange": {"encoding": encoding}}, **settings)
        say(f"stillroom {encoding}, {plan.sites} sites, {plan.rounds} rounds")
        found = studies.measure(f"stillroom {encoding}", plan, turns=turns, timeout_s=timeout_s)
        _empty(plan.out)
        return {**found.as_json(), "encoding": encoding, "sites": plan.sites}

    def flower(self, shapes: Any = None, rounds: int = 2) -> dict[str, Any]:
        """One run of plain Flower."""
        say("plain Flower")
        out = self.out()
        found = PlainFlower(out, shapes or self.shapes, 3, rounds).run()
        _empty(out)
        return {**found.as_json(), "sites": 3}

    def nvflare(self, shapes: Any = None, rounds: int = 3) -> dict[str, Any]:
        """One run of NVFlare, or why there is none."""
        if self.flare is None:
            return {"system": "NVFlare 2.9.0", "missing": self.why_not}
        say("NVFlare")
        out = self.out()
        found = Flare(self.flare, out, shapes or self.shapes, 3, rounds).run()
        _empty(out)
        return {**found.as_json(), "sites": 3}

    # -- the parts ------------------------------------------------------------------------------

    def main(self) -> list[dict[str, Any]]:
        """62 million values, three sites: everybody in turn."""
        turn: list[Callable[[], dict[str, Any]]] = [
            lambda: self.ours("fp32"),
            self.nvflare,
            lambda: self.ours("bf16-delta"),
            self.flower,
            lambda: self.ours("int8-delta"),
        ]
        return [_kept(take) for _ in range(self.cycles) for take in turn]

    def scale(self) -> list[dict[str, Any]]:
        """The server's memory from 2 sites to many."""
        rows = []
        for encoding in ("fp32", "int8-delta"):
            for sites in (2, 4, self.many):
                # Two train at a time where more would not fit in memory: walls say nothing there.
                turns = 2 if sites > 4 else 0
                more = {"sites": sites, "rounds": 2, "turns": turns, "timeout_s": 1800.0}
                rows.append(_kept(_study(self.ours, encoding, **more)))
        return rows

    def tiny(self) -> list[dict[str, Any]]:
        """A model that costs nothing to move: what is left is waiting."""
        return [
            _kept(lambda: self.ours("fp32", shapes=models.TINY, rounds=20)),
            _kept(lambda: self.flower(models.TINY, 4)),
            _kept(lambda: self.nvflare(models.TINY, 8)),
        ]

    def simulation(self) -> list[dict[str, Any]]:
        """10, 50 and 200 sites in one process."""
        rows = []
        for sites in (10, 50, 200):
            say(f"{sites} sites in one process")
            out = self.out()
            out.mkdir()
            command = [sys.executable, "-P", str(HERE / "simulation.py"), str(out), str(sites), "6"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                rows.append({"sites": sites, "missing": done.stderr.strip()[-300:]})
            else:
                rows.append(json.loads(done.stdout.splitlines()[-1]))
            _empty(out)
        return rows

    def training(self) -> dict[str, Any]:
        """Training through the platform beside the same loop run bare."""
        say("training")
        found = _lines_of("bench_training.py")
        return found[-1]

    def aggregation(self) -> list[dict[str, Any]]:
        """Adding updates up beside copying them."""
        say("aggregation")
        return _lines_of("bench_aggregation.py")

    def soak(self) -> dict[str, Any]:
        """A long study of the tiny model."""
        say(f"soak of {self.soak_rounds} rounds")
        stage = {"exchange": {"encoding": "bf16-delta"}}
        plan = Plan(
            out=self.out(), shapes=models.TINY, sites=3, rounds=self.soak_rounds, stage=stage
        )
        try:
            found = studies.soak(plan, timeout_s=60 + 4.0 * self.soak_rounds)
        except (RuntimeError, TimeoutError) as error:
            return {"missing": str(error)[-300:]}
        _empty(plan.out)
        return asdict(found)


def _lines_of(script: str) -> list[dict[str, Any]]:
    """What a script beside this one prints, one JSON object a line."""
    command = [sys.executable, "-P", str(HERE / script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return found or [{"missing": done.stderr.strip()[-300:]}]


def _study(function: Callable[..., dict[str, Any]], *args: Any, **more: Any) -> Any:
    return lambda: function(*args, **more)


def _kept(take: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row; one that could not be measured says why instead of ending the bench."""
    try:
        return take()
    except (RuntimeError, TimeoutError, OSError, subprocess.SubprocessError) as error:
        say(f"not measured: {error}")
        return {"system": "?", "missing": str(error)[-300:]}


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _empty(folder: Path) -> None:
    """Remove a study's files but for its logs: a few of them hold gigabytes."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.suffix in {
            ".safetensors",
            ".delta",
            ".blob",
            ".residual",
            ".npz",
        }:
            path.unlink()


def joined(files: Sequence[Path]) -> dict[str, Any]:
    """Results of several runs; of a part that is in more of them, the last one's.

    Raises:
        SystemExit: They are of machines, versions or models that differ.
    """
    found: dict[str, Any] = {"loads": {}}
    for file in files:
        results = json.loads(file.read_text("utf-8"))
        for key in ("machine", "model_bytes"):
            known, other = (_lasting(one.get(key)) for one in (found, results))
            if None not in {known, other} and known != other:
                sys.exit(f"{file}: {key} is {other}, elsewhere {known}; not one bench")
        before = results.get("machine", {}).get("load_before")
        loads = dict.fromkeys((part for part in PARTS if part in results), before)
        found = {
            **found,
            **results,
            "loads": {**found["loads"], **loads, **results.get("loads", {})},
        }
    return found


def _lasting(value: Any) -> str | None:
    """What does not change from one run to the next, as text."""
    if isinstance(value, dict):
        value = {key: one for key, one in value.items() if key != "load_before"}
    return None if value is None else json.dumps(value, sort_keys=True)


def machine() -> dict[str, Any]:
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "flwr": version("flwr"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> int:
    """Measure, write the page, and tell which bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--soak-rounds", type=int, default=500)
    parser.add_argument("--many", type=int, default=16)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--join", default="", help="Scratch folders of other runs, commas between.")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # Told to stop, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="stillroom-bench-") as temporary:
        root = given.scratch or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        kept = root / "results.json"
        others = [Path(folder) / kept.name for folder in given.join.split(",") if folder]
        results = joined([*others, *([kept] if kept.exists() else [])])
        bench = Bench(root, given.cycles, given.soak_rounds, given.many)
        for part in [] if given.only == "none" else given.only.split(","):
            results["machine"], results["model_bytes"] = machine(), bench.model
            results["loads"][part] = results["machine"]["load_before"]
            results[part] = getattr(bench, part)()
            kept.write_text(json.dumps(results, indent=1), "utf-8")
        kept.write_text(json.dumps(results, indent=1), "utf-8")
    performance = page.performance(results)
    if "main" in results:
        page.write(performance)
    else:
        say("the page is left as it is: without the main part it would say less than it does")
    for bar in performance["bars"]:
        met = {True: "met", False: "NOT MET", None: "not measured"}[bar["met"]]
        sys.stdout.write(f"{met:12s} {bar['name']}: {bar['said']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
