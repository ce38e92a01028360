"""Studies over bad lines: 4 Mbit/s, 200 ms, 1 % loss, a cut of a minute, a cut inside an upload."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hosts as namespaces
from consortium import Consortium
from plan import Plan, records
from supervisor import Verdict, judge

from stillroom.deploy import consortium_files

SHAPES = {"encoder.weight": (1024, 1024), "heads.vessels.weight": (3, 32, 1, 1, 1)}
"""4.2 MB as float32: eight seconds at 4 Mbit/s."""
LINE = ("--rate-mbit", "4", "--delay-ms", "100", "--loss", "0.01")
"""100 ms each way."""
SITES, ROUNDS, AGAIN = 2, 2, 0.05
UPLOADED = 1.6e6
"""Bytes of an upload's 4.2 million after which it is in its middle."""

Tend = Callable[[], None]


@dataclass
class Cut:
    """Cuts the line of the first site once something has happened, and mends it again."""

    hosts: Any
    seconds: float
    when: Callable[[], bool]
    cut_at: float | None = None
    mended: bool = False

    def __call__(self) -> None:
        """One look."""
        if self.cut_at is None and self.when():
            self.hosts.cut(1, on=True)
            self.cut_at = time.monotonic()
        elif not self.mended and self.cut_at and time.monotonic() > self.cut_at + self.seconds:
            self.hosts.cut(1, on=False)
            self.mended = True


@dataclass
class Lined(Consortium):
    """A consortium whose processes sit in namespaces."""

    plan: Plan
    hosts: Any = field(default=None)

    def __post_init__(self) -> None:
        """As a consortium, with hooks that note the ports of transfers."""
        super().__init__(self.plan, {"ports": True})
        server = self.hosts.inside(0)
        self.prefix = {"link": server, "exec": server}
        for number, name in enumerate(self.plan.names, 1):
            for role in ("courier", "runner"):
                self.prefix[f"{name}-{role}"] = self.hosts.inside(number)

    def found(self) -> Any:
        """As on loopback, but the server listens on every line and its certificate says so."""
        addresses = [self.hosts.server_address(n) for n in range(1, SITES + 1)]
        with _also_at(addresses):
            prepared = super().found()
        toml = self.server_toml
        text = toml.read_text("utf-8").replace('edge_host = "127.0.0.1"', 'edge_host = "0.0.0.0"')
        toml.write_text(text, "utf-8")
        for address, name in zip(addresses, self.plan.names, strict=True):
            toml = self.layout.site_config(name)
            text = toml.read_text("utf-8").replace('server = "127.0.0.1:', f'server = "{address}:')
            toml.write_text(text, "utf-8")
        return prepared

    def ports_of(self, name: str) -> set[int]:
        """Of a site's transfers so far."""
        path = self.plan.out / "ports" / name
        return {int(line) for line in path.read_text("ascii").split()} if path.exists() else set()


@contextlib.contextmanager
def _also_at(addresses: list[str]) -> Iterator[None]:
    """Have the server's certificate name more addresses."""
    found = consortium_files.found

    def more(folder: Path, name: str, hosts: list[str], now: Any) -> Any:
        return found(folder, name, [*hosts, *addresses], now)

    consortium_files.found = more  # type: ignore[assignment]
    try:
        yield
    finally:
        consortium_files.found = found


def bad_lines(total: Any, scratch: Path) -> None:
    """Every line; a machine that has no namespaces says so and goes on."""
    why = namespaces.missing()
    if why is not None:
        print(f"\nbad lines are left out: {why}", flush=True)  # noqa: T201
        return
    for name, seconds, inside in (
        ("slow, far and lossy", 0.0, False),
        ("a cut of 60 s", 60.0, False),
        ("a cut inside an upload", 8.0, True),
    ):
        verdict, again = over(scratch, name, seconds, inside=inside)
        total.wrong += verdict.wrong
        total.lost += verdict.lost
        if verdict.problems:
            total.others += [f"{name}: {problem}" for problem in verdict.problems]
        elif again > AGAIN:
            total.others.append(f"{name}: {again:.1%} of the bytes were sent again")
        print(  # noqa: T201
            f"\nline, {name}: {'; '.join(verdict.problems) or 'completed'} in "
            f"{verdict.seconds:.0f} s, {again:.2%} more bytes on the line than files hold",
            flush=True,
        )


def over(scratch: Path, name: str, seconds: float, *, inside: bool) -> tuple[Verdict, float]:
    """One study over one kind of line; also the share of bytes that were sent in vain.

    What crosses is counted on the line by the ports of transfers, so TLS, HTTP and what TCP
    repeats because of the loss are in it.
    """
    out = scratch / f"line-{name.replace(' ', '-').replace(',', '')}"
    plan = Plan(
        out=out,
        shapes=SHAPES,
        sites=SITES,
        rounds=ROUNDS,
        seconds=0.5,
        quorum={"grace_s": 600.0},
    )
    out.mkdir()
    hosts = namespaces.Hosts(out, SITES)
    verdict, started, again = Verdict(), time.monotonic(), 0.0
    try:
        hosts.up(*LINE)
        consortium = Lined(plan, hosts)
        consortium.found()
        tend: list[Tend] = [consortium.check]
        if seconds:
            tend.append(Cut(hosts, seconds, _moment(consortium, inside=inside)))
        try:
            consortium.start_all()
            consortium.wait(300, tend=tend)
        except (TimeoutError, RuntimeError) as error:
            verdict.problems.append(str(error))
        finally:
            crossed = {
                n: hosts.crossed(k, consortium.ports_of(n)) for k, n in enumerate(plan.names, 1)
            }
            consortium.stop()
        judge(plan, consortium, verdict)
        files = _files(plan)
        again = max(crossed[n] / files[n] - 1 for n in plan.names) if all(files.values()) else 0.0
    finally:
        hosts.down()
    verdict.seconds = time.monotonic() - started
    return verdict, again


def _moment(consortium: Consortium, *, inside: bool) -> Callable[[], bool]:
    """When to cut: in the middle of the first site's first upload, or when its training has begun."""
    depot = consortium.layout.server / "state" / "depot"

    def uploading() -> bool:
        return any(
            path.is_file() and path.stat().st_size > UPLOADED
            for path in depot.glob("in/site-001/**/*")
        )

    def training() -> bool:
        return (consortium.plan.out / "trained" / "site-001.jsonl").exists()

    return uploading if inside else training


def _files(plan: Plan) -> dict[str, int]:
    """Bytes of the files that had to cross, by site, from the rounds' records.

    The first round's model does not: it came with the prepared study.
    """
    found = dict.fromkeys(plan.names, 0)
    for record in records(plan.layout.run):
        for name, site in record["sites"].items():
            found[name] += site["bytes_up"] + (site["bytes_down"] if record["round"] > 1 else 0)
    return found
