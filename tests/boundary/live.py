"""The smuggling matrix on a live consortium: real processes, mutual TLS, bytes counted on the wire.

One federation for all attempts. Honest sites and evil sites have the courier of the field; an evil
site's runner, or the server, does what the attempt says, one attempt a round. Hostile clients hold a
site's certificate and have no courier. Between every site and the edge lies a relay that counts.

    python -P tests/boundary/live.py [--sample] [--keep FOLDER]
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCH = HERE.parent / "bench"
sys.path[:0] = [str(HERE), str(BENCH), str(BENCH / "inject")]
import attempts  # noqa: E402  # these lie beside this file, or in the bench
import script  # noqa: E402
from consortium import SERVER, Consortium  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402
from plan import Plan  # noqa: E402
from relay import Relay  # noqa: E402
from verdicts import Notes, Verdict, judge  # noqa: E402

from stillroom.common.canonical import canonical_bytes  # noqa: E402
from stillroom.common.messages import INVENTORY, ROUND  # noqa: E402
from stillroom.deploy.consortium_files import (  # noqa: E402
    agree,
    found_consortium,
    write_server_config,
    write_site_config,
)
from stillroom.deploy.processes import free_ports  # noqa: E402
from stillroom.server.store.journal import read_events  # noqa: E402

SAMPLE = (
    "extra tensor holding a CT slice",
    "NaN",
    "exception text with a name",
    "file named by another digest",
    "zip bomb: one chunk 10^5 times",
    "wrong study digest",
    "FAB with code",
)
"""What ``make test`` tries; the rest is for ``make boundary``."""


@dataclass(frozen=True)
class Cast:
    """Who is who.

    Attributes:
        honest: Do what they are asked; with couriers.
        evil: Their runner, or the server that asks them, does not; with couriers.
        hostile: Have no courier.
        replies: Site -> kind of question -> attempts, in their order.
        requests: Evil site -> round of the student -> what the server tries.
        rounds: Of the student: as many as it takes.
        taught: Rounds of the teacher.
    """

    honest: list[str]
    evil: list[str]
    hostile: list[str]
    replies: dict[str, dict[str, list[str]]]
    requests: dict[str, dict[str, str]]
    rounds: int
    taught: int

    @property
    def names(self) -> list[str]:
        """All sites."""
        return [*self.honest, *self.evil, *self.hostile]

    @property
    def inventories(self) -> int:
        """How many inventories are refused before one is answered."""
        return max((len(mine.get(INVENTORY, ())) for mine in self.replies.values()), default=0)


def cast(cases: Iterable[Any], counts: tuple[int, int, int]) -> Cast:
    """Deal the attempts out, one after the other.

    Args:
        cases: What to try.
        counts: Honest, evil and hostile sites.
    """
    names = [f"site-{number:03d}" for number in range(1, sum(counts) + 1)]
    honest, rest = names[: counts[0]], names[counts[0] :]
    evil, hostile = rest[: counts[1]], rest[counts[1] :]
    replies: dict[str, dict[str, list[str]]] = {site: {} for site in rest}
    requests: dict[str, dict[str, str]] = {site: {} for site in evil}
    turn: dict[str, int] = {}

    def deal(queue: str, sites: list[str]) -> str:
        turn[queue] = turn.get(queue, -1) + 1
        return sites[turn[queue] % len(sites)]

    for site in evil:
        replies[site][ROUND] = [script.REFUSAL]
    for case in cases:
        if case.name in script.WITHDRAWN:
            continue  # after these a site is out: they come last
        kind = script.kind_of(case)
        if case.reply is None and case.forge is None:
            mine = requests[deal("request", evil)]
            mine[str(2 + len(mine))] = case.name
            continue
        replies[deal(kind, evil)].setdefault(kind, []).append(case.name)
        if case.server:
            replies[deal(f"hostile {kind}", hostile)].setdefault(kind, []).append(case.name)
    tried = {case.name for case in cases}
    task, update = script.WITHDRAWN
    if update in tried:
        replies[evil[0]][ROUND].append(update)
    needed = [len(replies[s].get(ROUND, ())) + len(requests.get(s, ())) for s in rest]
    rounds = max(needed)
    if task in tried:
        last = rounds = max(rounds, needed[evil.index(evil[-1])] + 1)
        requests[evil[-1]][str(last)] = task
    taught = max([1, *(len(mine.get(script.DELTA, ())) for mine in replies.values())])
    return Cast(honest, evil, hostile, replies, requests, rounds, taught)


class Federation(Consortium):
    """The consortium of the bench, with this study, this cast and a relay before the edge."""

    def __init__(self, out: Path, who: Cast) -> None:
        """Take what is to be tried."""
        super().__init__(Plan(out=out, shapes=attempts.SHAPES, sites=len(who.names)))
        self.who = who
        self.relays = dict(zip(who.names, free_ports(len(who.names)), strict=True))

    def found(self) -> Any:
        """Everything on disk."""
        layout, out, who = self.layout, self.plan.out, self.who
        for folder in (self.pids, layout.logs, out / "damaged", layout.study / "weights"):
            folder.mkdir(parents=True)
        quorum = {"min_sites": len(who.honest), "deadline_s": 120.0, "grace_s": 120.0}
        prepared = attempts.study(
            rounds=who.rounds, taught=(who.taught, "bf16-delta"), quorum=quorum
        )
        document = canonical_bytes(prepared.model_dump(mode="json"))
        (layout.study / "study.json").write_bytes(document)
        weights = layout.study / "weights" / f"{attempts.MODEL.sha256}.safetensors"
        weights.write_bytes(attempts.BASE_FILE)
        found_consortium(layout, who.names)
        inner, edge, *runtimes = self.ports
        write_server_config(layout, edge_port=edge, inner_port=inner)
        for name, port in zip(who.names, runtimes, strict=True):
            data = layout.site(name) / "data"
            data.mkdir()
            more: dict[str, Any] = {"labels": {}, "threads": 1, "seed": 0, "runtime_port": port}
            write_site_config(layout, name, server_port=self.relays[name], data=[data], **more)
        agree(layout, who.names)
        live = {
            "modules": str(HERE),
            "out": str(out),
            "study": str(layout.study),
            "sites": str(out / "sites"),
            "depot": str(layout.server / "state" / "depot"),
            "replies": who.replies,
            "requests": who.requests,
        }
        self.hooks = {"live": live}
        (out / "hooks.json").write_text(json.dumps(self.hooks), "utf-8")
        return prepared

    def commands(self) -> dict[str, list[str]]:
        """A hostile site has neither courier nor runner."""
        found = super().commands()
        return {n: c for n, c in found.items() if n.rsplit("-", 1)[0] not in self.who.hostile}

    def folder(self, run: str) -> Path:
        """Of a run's records."""
        return self.plan.out / f"run-{run}"

    def command(self, *words: str) -> None:
        """A command of the operator; asked again until the server is there."""
        import subprocess

        end = time.monotonic() + 60
        config = ["--config", str(self.server_toml)]
        line = [sys.executable, "-P", "-m", SERVER, "run", *words, *config]
        while True:
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"run {words[0]}: {done.stderr}")
            time.sleep(0.3)

    def begin(self, run: str) -> None:
        """``run start``, once every site's key is known."""
        end = time.monotonic() + 120
        while not self._all_enrolled():
            if time.monotonic() > end:
                raise TimeoutError("the server did not start")
            self.check()
            time.sleep(0.1)
        self.command("start", str(self.layout.study), "--out", str(self.folder(run)))

    def wait_for(self, run: str, limit_s: float) -> None:
        """Wait until a run has ended, one way or another.

        Raises:
            TimeoutError: It never did.
        """
        end = time.monotonic() + limit_s
        while not finished(self.folder(run)):
            if time.monotonic() > end:
                raise TimeoutError(f"{run} did not come to its end within {limit_s:.0f} s")
            self.check()
            time.sleep(0.1)


def finished(run: Path) -> bool:
    """Whether a run's events say that it has ended."""
    return any(event["event"] == "study.finished" for _, event in read_events(run))


def play(out: Path, who: Cast, limit_s: float) -> tuple[Notes, Relay]:
    """Every attempt of a cast; what was noted of it."""
    import hostile

    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)
    federation, stop = Federation(out, who), threading.Event()
    federation.found()
    given = federation.hooks["live"]
    edge = federation.ports[1]
    thread = threading.Thread(
        target=hostile.keep_trying, args=(who.hostile, given, stop), daemon=True
    )
    with Relay(edge, federation.relays) as relay:
        try:
            commands = list(federation.commands())
            federation.start("link", *(n for n in commands if n.endswith("-runner")))
            runs = [f"inventory-{number}" for number in range(who.inventories)]
            for number, run in enumerate([*runs, "study"]):
                if run == "study":
                    (out / "armed").touch()
                federation.begin(run)
                if number == 0:
                    federation.start("exec", *(n for n in commands if n.endswith("-courier")))
                    thread.start()
                federation.wait_for(run, limit_s)
            time.sleep(0.5)
        finally:
            stop.set()
            federation.stop()
            if thread.ident is not None:
                thread.join(10)
    relay.keep(out / "relay.json")
    return Notes.read(out, runs), relay


def run(out: Path, *, sample: bool = False, limit_s: float = 900.0) -> Mapping[str, Verdict]:
    """Play and judge: verdict by attempt.

    Args:
        out: A new folder; everything of the consortium is in it afterwards.
        sample: A few attempts and one site of each kind, for every day.
        limit_s: For each of the runs.
    """
    import smuggling

    cases = [case for case in smuggling.CASES if not sample or case.name in SAMPLE]
    who = cast(cases, (1, 1, 1) if sample else (2, 3, 3))
    notes, relay = play(out, who, limit_s)
    return judge(cases, who, notes, relay)


def main() -> int:
    """Print a line an attempt; 1 when one was not refused as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stillroom-live-") as scratch:
        found = run(given.keep or Path(scratch), sample=given.sample)
    for name, verdict in found.items():
        sys.stdout.write(f"{name:45s} {verdict}\n")
    good = sum(verdict.good for verdict in found.values())
    sys.stdout.write(f"live {good}/{len(found)}, {time.monotonic() - started:.0f} s\n")
    return int(good < len(found))


if __name__ == "__main__":
    sys.exit(main())
