"""Studies over bad lines: 4 Mbit/s, 200 ms, 1 % loss, a cut of a minute, cuts inside a transfer.

What a bad line costs is counted twice, and held against the same study over a line that loses
nothing:

* *again*: bytes of files that were put on the line more than once, because a connection broke. TCP's
  own repetitions within a connection are not in it; requests, TLS and new handshakes are what the
  clean line carried too, and what is more of them than there is in it. The bar is on this.
* *on the line*: every payload byte of TCP, lost and repeated ones included.
"""

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
MIDDLE = 1.6e6
"""Bytes of a file's 4.2 million after which its transfer is in its middle."""

PLACES = ("up", "up-here", "down", "down-here")

Tend = Callable[[], None]


@dataclass(frozen=True)
class Line:
    """One kind of line.

    Attributes:
        name: In words.
        settings: Of ``line.py``.
        cut_s: The first site's line is cut for so long, once.
        during: When: ``training``, ``an upload`` or ``a download``.
    """

    name: str
    settings: tuple[str, ...] = ()
    cut_s: float = 0.0
    during: str = "training"


LINES = (
    Line("slow, far and lossy", LINE),
    Line("a cut of 60 s", LINE, 60.0),
    Line("a cut of 60 s inside an upload", LINE, 60.0, "an upload"),
    Line("a cut of 60 s inside a download", LINE, 60.0, "a download"),
)
"""Longer than a stalled connection is waited for (20 s), so that the transfer itself must go on."""


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
        """As a consortium, with hooks that note ports and bytes of transfers."""
        super().__init__(self.plan, {"ports": True, "bodies": True})
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


@dataclass
class Crossing:
    """What one study sent over the first site's line, or the one that had the worse of it.

    Attributes:
        name: Of the line.
        files: Bytes of the files that had to cross.
        bodies: Bytes of files by where they were counted (``inject/bodies.py``).
        once: Payload bytes of transfers on the line, without TCP's repetitions.
        all: With them.
        seconds: The whole study.
        problems: In words.
    """

    name: str
    files: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, dict[str, int]] = field(default_factory=dict)
    once: dict[str, int] = field(default_factory=dict)
    all: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def row(self, clean: "Crossing") -> dict[str, Any]:
        """Shares of the files' bytes, of the site that is worse off."""
        names = [name for name, size in self.files.items() if size and clean.files.get(name)]
        most = {
            "again": max((self._more(self.once, clean.once, n) for n in names), default=None),
            "on_the_line": max((self._more(self.all, clean.all, n) for n in names), default=None),
            "handed_over_again": max((self._handed(n) for n in names), default=None),
        }
        return {
            "line": self.name,
            "seconds": round(self.seconds),
            "problems": self.problems,
            **most,
        }

    def _more(self, here: dict[str, int], clean: dict[str, int], name: str) -> float:
        return round((here[name] - clean[name]) / self.files[name], 4)

    def _handed(self, name: str) -> float:
        """What couriers and server gave to their connections beyond the files, line or not."""
        return round(
            (self.bodies[name]["up"] + self.bodies[name]["down"]) / self.files[name] - 1, 4
        )


def bad_lines(scratch: Path, total: Any) -> Any:
    """Every line, into ``total``; a machine that has no namespaces says so."""
    total.left_out = namespaces.missing()
    if total.left_out is not None:
        print(f"\nbad lines are left out: {total.left_out}", flush=True)  # noqa: T201
        return total
    clean = over(total, scratch, Line("a clean line"))
    for line in LINES:
        row = over(total, scratch, line).row(clean)
        again = row["again"]
        if again is not None and again > AGAIN:
            total.problems.append(f"{line.name}: {again:.1%} of the bytes were sent again")
        total.rows.append(row)
        print(f"\nline, {said(row)}", flush=True)  # noqa: T201
    return total


def said(row: dict[str, Any]) -> str:
    """A row in words."""
    how = "; ".join(row["problems"]) or "completed"
    text = f"{row['line']}: {how} in {row['seconds']} s"
    if row["again"] is not None:
        text += (
            f", {row['again']:.2%} of the files' bytes on the line again, {row['on_the_line']:.2%}"
            f" with TCP's repetitions, {row['handed_over_again']:.2%} handed over again"
        )
    return text


def over(total: Any, scratch: Path, line: Line) -> Crossing:
    """One study over one kind of line."""
    out = scratch / f"line-{line.name.replace(' ', '-').replace(',', '')}"
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
    verdict, crossing, started = Verdict(), Crossing(line.name), time.monotonic()
    try:
        hosts.up(*line.settings)
        consortium = Lined(plan, hosts)
        consortium.found()
        tend: list[Tend] = [consortium.check]
        if line.cut_s:
            tend.append(Cut(hosts, line.cut_s, _moment(consortium, line.during)))
        try:
            consortium.start_all()
            consortium.wait(300, tend=tend)
        except (TimeoutError, RuntimeError) as error:
            verdict.problems.append(str(error))
        finally:
            for number, name in enumerate(plan.names, 1):
                crossed = hosts.crossed(number, consortium.ports_of(name))
                crossing.all[name], crossing.once[name] = crossed
            consortium.stop()
        judge(plan, consortium, verdict)
        crossing.files, crossing.bodies = _files(plan), _bodies(plan)
    finally:
        hosts.down()
    total.count(verdict)
    total.problems += [f"{line.name}: {problem}" for problem in verdict.problems]
    crossing.seconds, crossing.problems = time.monotonic() - started, verdict.problems
    return crossing


def _moment(consortium: Consortium, during: str) -> Callable[[], bool]:
    """When to cut: once the first site trains, or in the middle of its first file up or down."""
    if during == "training":
        return (consortium.plan.out / "trained" / "site-001.jsonl").exists
    here = {
        "an upload": (consortium.layout.server / "state" / "depot", "in/site-001/**/*"),
        "a download": (consortium.layout.site("site-001"), "**/*.part"),
    }
    folder, pattern = here[during]

    def there() -> bool:
        with contextlib.suppress(FileNotFoundError):  # renamed this moment
            return any(p.is_file() and p.stat().st_size > MIDDLE for p in folder.glob(pattern))
        return False

    return there


def _files(plan: Plan) -> dict[str, int]:
    """Bytes of the files that had to cross, by site, from the rounds' records.

    The first round's model does not: it came with the prepared study.
    """
    found = dict.fromkeys(plan.names, 0)
    for record in records(plan.layout.run):
        for name, site in record["sites"].items():
            found[name] += site["bytes_up"] + (site["bytes_down"] if record["round"] > 1 else 0)
    return found


def _bodies(plan: Plan) -> dict[str, dict[str, int]]:
    """What was counted where files are handed over, by site and place."""
    found = {name: dict.fromkeys(PLACES, 0) for name in plan.names}
    for name in plan.names:
        for noted in (plan.out / "bodies" / name).read_text("ascii").splitlines():
            place, _, count = noted.partition(" ")
            found[name][place] += int(count)
    return found
