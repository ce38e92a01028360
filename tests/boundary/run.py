"""``make boundary``: everything somebody could try, tried; the record is docs/reference/boundary.md.

Five parts: the handshake matrix against a live server; the smuggling matrix through courier, gate and
server in one process, and again on a live consortium with a meter on the wire; the fuzzers of every
decoder; and courier and runner in network namespaces where those can be made. It ends with one line,
and with status 1 when anything got through or crashed.

    python -P tests/boundary/run.py [--only handshakes,smuggling,live,fuzz,isolation]
                                    [--scratch FOLDER]

With ``--scratch`` what was found stays there, and a later run with ``--only`` replaces its parts.
"""

import argparse
import importlib.util
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from flwr.supercore.task_identity import TaskIdentity

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "boundary.md"
DECODERS = (
    "boundary/test_decoders.py",
    "boundary/test_papers.py",
    "boundary/test_ledger.py",
    "common/test_encoding.py::test_noise_behind_a_valid_beginning_is_refused",
)
ISOLATION = ("test_isolation.py", "test_runner_isolation.py")
_ENDED = re.compile(r"^(PASSED|FAILED|ERROR) \S+::test_(\w+)", re.MULTILINE)
_EXAMPLES = re.compile(r"(\d+) passing, (\d+) failing, and \d+ invalid test cases")
"""What Hypothesis threw away as invalid never reached a decoder and does not count."""
_TEST = re.compile(r"^tests/\w+/(test_\w+\.py)::(test_\w+):$", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """One part of the record.

    Attributes:
        table: Markdown lines.
        held: How many were refused, or how many examples ran.
        of: How many there are, or how many tests crashed.
        seconds: What it took; 0 where the table is of an earlier run of this page.
    """

    table: Sequence[str]
    held: int
    of: int
    seconds: float = 0.0


def load(name: str) -> None:
    """Load the module ``name`` beside this file under its name, as the tests do."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def handshakes() -> Part:
    """Every way of trying to get in, against one live server."""
    load("handshakes")
    import handshakes as matrix

    with tempfile.TemporaryDirectory() as scratch, matrix.live_server(Path(scratch)) as bench:
        results = matrix.run_matrix(bench)
    table = ["| who tries | refused | named in the log |", "|---|---|---|"]
    places = {"tls": "in the handshake, before HTTP", "401": "401, before Flower"}
    for case in matrix.CASES:
        where = places.get(case.where, case.where)
        table.append(
            f"| {case.name} | {where if results[case.name] else '**got in**'} | `{case.cause}` |"
        )
    return Part(table, sum(results.values()), len(results))


def smuggling() -> Part:
    """Everything somebody could try to get out of a site, or into it as work."""
    load("conftest")
    import attempts
    import smuggling as matrix

    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)
    refused = 0
    table = [
        "| attempt | gate | server | payload bytes on the wire | ledger |",
        "|---|---|---|---|---|",
    ]
    for case in matrix.CASES:
        with tempfile.TemporaryDirectory() as folder:
            result = attempts.attempt(case, Path(folder))
        line = result.lines[-1]
        good = (
            result.payload == 0
            and line.decision == "refused"
            and line.code in case.codes
            and not any(entry.kind == "sent" for entry in result.lines)
            and (not case.server or result.server in case.server)
        )
        refused += good
        told = result.code or ("nothing sent" if not result.wire.pushed else "LEFT")
        table.append(
            f"| {case.name} | {told}{'' if good else ' **not as it should be**'} "
            f"| {result.server or 'never reaches it'} | {result.payload} | {line.kind}, {line.code} |"
        )
    return Part(table, refused, len(matrix.CASES))


def live() -> Part:
    """The same attempts on a live consortium, or why one cannot be tried there."""
    for name in ("attempts", "forgery", "smuggling"):
        sys.modules.pop(name, None)  # made anew, for a study of its own
    sys.path.insert(0, str(HERE))
    import live as consortium

    with tempfile.TemporaryDirectory(prefix="stillroom-live-") as scratch:
        found = consortium.run(Path(scratch))
    return live_part(found)


def live_part(found: Mapping[str, Any]) -> Part:
    """Verdicts of ``live.run`` as a part of the record."""
    table = [
        "| attempt | site | bytes of it on the wire | of all | ledger | server told | no courier |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, verdict in found.items():
        row = (
            verdict.gate,
            str(verdict.payload) if verdict.gate else "",
            str(verdict.wire) if verdict.gate else "",
            verdict.ledger,
            verdict.told,
            verdict.server,
        )
        wrong = f" **{'; '.join(verdict.problems)}**" if verdict.problems else ""
        table.append(f"| {name}{wrong} | {' | '.join(cell or '-' for cell in row)} |")
    return Part(table, sum(verdict.good for verdict in found.values()), len(found))


def fuzz() -> Part:
    """The fuzzers, in a process of their own: a crash of the interpreter is a crash too."""
    examples = os.environ.get("STILLROOM_FUZZ_EXAMPLES", "10000")
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", "-q", "--hypothesis-show-statistics"),
            *(str(HERE.parent / name) for name in DECODERS),
        ],
        cwd=HERE.parents[1],
        env={**os.environ, "STILLROOM_FUZZ_EXAMPLES": examples},
        capture_output=True,
        text=True,
        check=False,
    )
    table, total, failing = ["| decoder | examples | crashes |", "|---|---|---|"], 0, 0
    places = [(m.start(), m[1], m[2]) for m in _TEST.finditer(done.stdout)]
    for (start, file, test), end in zip(
        places, [*(p[0] for p in places[1:]), len(done.stdout)], strict=True
    ):
        counts = [tuple(map(int, m)) for m in _EXAMPLES.findall(done.stdout[start:end])]
        ran = sum(map(sum, counts))
        bad = sum(c[1] for c in counts)
        total, failing = total + ran, failing + bool(bad)
        table.append(f"| `{file}` {test.removeprefix('test_').replace('_', ' ')} | {ran} | {bad} |")
    # A test that failed without a failing example (or never started) is a crash all the same.
    crashes = failing or int(done.returncode != 0)
    if crashes:
        typer.echo(done.stdout[-6000:] + done.stderr[-2000:])
    return Part(table, total, crashes)


def isolation() -> Part:
    """Courier and runner in namespaces of their own; packets counted."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-rA", *(str(HERE / n) for n in ISOLATION)],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    ended = _ENDED.findall(done.stdout)
    held = sum(how == "PASSED" for how, _ in ended)
    failed = sum(how in {"FAILED", "ERROR"} for how, _ in ended)
    if failed or not ended:
        typer.echo(done.stdout[-6000:] + done.stderr[-2000:])
    if not ended:
        return Part(
            ["Not tried here: it needs root, `ip` and `nft`."], 0, int(done.returncode != 0)
        )
    words = {"PASSED": "holds", "FAILED": "**does not hold**", "ERROR": "**does not hold**"}
    table = ["| what | holds |", "|---|---|"]
    table += [f"| {test.replace('_', ' ')} | {words[how]} |" for how, test in sorted(ended)]
    return Part(table, held, held + failed)


PARTS = {
    "handshakes": handshakes,
    "smuggling": smuggling,
    "live": live,
    "fuzz": fuzz,
    "isolation": isolation,
}
HEADS = {
    "handshakes": "Getting in: the handshake matrix",
    "smuggling": "Getting out: the smuggling matrix, in process",
    "live": "Getting out: the smuggling matrix, live",
    "fuzz": "Every decoder that sees a peer's bytes",
    "isolation": "Courier and runner in network namespaces",
}
WORDS = {
    "smuggling": """
The site's own code (gate, ledger, outbox, stores) with a line that counts what it is given. *Gate* is
the code the site answered with, *server* what the server made of the same bytes when they reach it
past the gate.
""",
    "live": """
Real processes: server, couriers and runners under mutual TLS, a relay before the edge that counts
every byte, and the edge's own count of what came out of TLS. One attempt a round; two honest sites go
on beside them. *Site* is the courier's code; *bytes of it on the wire* are all that are no bare
code: bodies of uploads, of messages that hold more than a registered code, and bytes on the wire that
neither the requests at the edge nor TLS account for (64 a request, 4096 a connection, 2048 an
attempt). *Of all* is everything that left the site until its next question, polling and handshakes
included; the row of a site that says it failed shows what that is where nothing is tried. Under *no
courier* a client with a site's certificate and no courier sent the same to the edge. A dash: there is
nothing to try there. The last row says whether every round was made of the honest sites' updates
alone, to the bit, and whether the study was completed.
""",
    "isolation": """
The courier behind a firewall that lets out one address and port; the runner where there is no network
at all, while a whole study is played. Packets are counted.
""",
}


def page(parts: Mapping[str, Part], verdict: str) -> str:
    """The record, as a page."""
    took = ", ".join(
        f"{name} {part.seconds:.0f} s" if part.seconds else f"{name} taken from an earlier run"
        for name, part in parts.items()
    )
    lines = [
        "# The boundary, tried",
        "",
        "Written by `make boundary`; do not edit. Every row is an attempt that was made on this",
        "code, not a promise. Codes: [error codes](errors.md). What a TLS scanner finds, and what the",
        "gate costs: [the boundary, measured](boundary-measured.md).",
        "",
        f"{_where()} Time of each part: {took}.",
        "",
        f"**{verdict}**",
        "",
    ]
    for name, part in parts.items():
        lines += [f"## {HEADS[name]}", "", *WORDS.get(name, "").strip().splitlines(), ""]
        lines += [*part.table, ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def _where() -> str:
    return f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}, flwr {version('flwr')}."


def main() -> int:
    """Run the parts, write the page, print the line; 1 when anything got through or crashed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    kept = None if given.scratch is None else given.scratch / "boundary-parts.json"
    parts: dict[str, Part] = {}
    if kept is not None and kept.exists():
        parts = {name: Part(**part) for name, part in json.loads(kept.read_text("utf-8")).items()}
    for name in given.only.split(","):
        started = time.monotonic()
        found = PARTS[name]()
        parts[name] = replace(found, seconds=time.monotonic() - started)
        typer.echo("\n".join(found.table) + "\n")
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            both = {n: asdict(parts[n]) for n in PARTS if n in parts}
            kept.write_text(json.dumps(both, indent=1), "utf-8")
    if parts.keys() != PARTS.keys():
        return 0  # the other parts are for another run with this scratch
    return _conclude({name: parts[name] for name in PARTS})


def _conclude(parts: Mapping[str, Part]) -> int:
    one, two, live, three, four = parts.values()
    verdict = (
        f"handshake {one.held}/{one.of} refused, "
        f"smuggling {two.held + live.held}/{two.of + live.of} refused, "
        f"fuzz {three.held} examples {three.of} crashes"
    )
    PAGE.write_text(page(parts, verdict), "utf-8")
    typer.echo(verdict)
    short = any(part.held < part.of for part in (one, two, live, four))
    return int(short or three.of > 0 or three.held == 0)


if __name__ == "__main__":
    sys.exit(main())
