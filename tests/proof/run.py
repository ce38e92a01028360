"""``make proof``: the log, tried; the record is docs/reference/proof.md.

Everything done to a log that somebody could do, every fault of a commit, and what verification
costs. It ends with one line, and with status 1 when anything went unnoticed or was lost.
"""

import importlib.util
import json
import logging
import multiprocessing
import os
import resource
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import typer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "proof.md"
MODULES = (
    "generation",
    "tampering",
    "flips",
    "faults",
    "tracing",
    "trial",
    "commits",
    "replays",
    "betrayals",
    "kinds",
    "schemas",
    "structure",
)
WORKERS = 4 * (os.cpu_count() or 1)
"""Processes for what can be shared out; most of them wait for a disk."""
MANY, MOST_S, MOST_PROOF_BYTES = 100_000, 30.0, 4096


@dataclass(frozen=True)
class Part:
    """One part of the record.

    Attributes:
        title: Heading on the page.
        lines: Markdown.
        good: How many were noticed, survived or the same.
        of: How many were tried.
        phrase: For the last line, e.g. ``tamper {}/{} detected``; empty when it is not counted there.
    """

    title: str
    lines: Sequence[str]
    good: int
    of: int
    phrase: str = ""

    @property
    def verdict(self) -> str:
        """Its piece of the last line."""
        return self.phrase.format(self.good, self.of)


def load(name: str) -> None:
    """Load the module ``name`` beside this file under its name, as the tests do."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def tamper(folder: Path) -> Part:
    """Every attack, and one byte flipped at every position of every published file."""
    import flips
    import generation
    import tampering

    world = generation.generate(folder / "world", 1000)
    caught = tampering.run(world)
    bench = tampering.bench_of(world)
    flipped = flips.flip_all(bench, workers=WORKERS)
    sample = flips.flip_some(bench, 1)
    titles = tampering.titles() | {0: "before any check"}
    lines = ["| what is done | found by | what the audit says, and where |", "|---|---|---|"]
    for one in caught:
        found = one.finding
        if found is None:
            lines.append(f"| {one.attack.name} | | **not noticed** |")
        else:
            check = f"{found.number}, {titles[found.number]}"
            lines.append(f"| {one.attack.name} | {check} | {found.where}: {found.meaning} |")
    lines += [
        "",
        "One byte flipped, at every position:",
        "",
        "| in | positions | detected |",
        "|---|---|---|",
    ]
    lines += [f"| {kind} | {tried} | {good} |" for kind, (good, tried) in flipped.items()]
    lines += [
        f"| any file, some positions, by a whole `verify` each | {sample[1]} | {sample[0]} |",
        "",
        "A file's bytes are judged by the functions that `verify` runs on that file; the last row is",
        "the cross-check by whole verifications.",
    ]
    good = (
        sum(one.finding is not None for one in caught)
        + sum(g for g, _ in flipped.values())
        + sample[0]
    )
    of = len(caught) + sum(t for _, t in flipped.values()) + sample[1]
    return Part("Tampering", lines, good, of, "tamper {}/{} detected")


def faults(folder: Path) -> Part:
    """Every call of a commit failing, and SIGKILL before each: of an append, and of a whole round."""
    import commits
    import faults as matrix

    found = matrix.run_faults(folder / "faults")
    rounds = commits.run_commits(folder / "commits", workers=WORKERS)
    good = sum(fault.survived for fault in found) + sum(not fault.why for fault in rounds)
    lines = [
        "Of an append to the log. Survived: the log verifies, holds all of the append or none of it,",
        "holds it if the append was acknowledged, and takes the next one.",
        "",
        *matrix.table(found),
        "",
        "Of a whole round of three sites (`bf16-delta`, FedAdam, updates kept), from the question to",
        "the last file tidied away; calls as the kernel sees them. Survived: the study is started",
        "again and ends with every round committed once, the models of an undisturbed run, a log that",
        "verifies, and nothing left over.",
        "",
        *commits.table(rounds),
    ]
    return Part(
        "Faults of a commit", lines, good, len(found) + len(rounds), "faults {}/{} survived"
    )


def replay(folder: Path) -> Part:
    """Every kept round of whole rehearsals, and of every encoding with every rule, made again."""
    import replays

    found = [
        *replays.rehearsals(folder),
        *replays.trials(folder / "trials", replays.ENCODINGS, replays.RULES),
        *replays.trials(folder / "averaged", ("fp32",), replays.AVERAGED),
        *replays.trials(folder / "last", ("fp32",), replays.AVERAGED, keep="last"),
    ]
    lines = [
        "By `stillroom-audit replay` in a folder that holds the log and what was kept, and in a",
        f"process that can import none of {', '.join(replays.WITHOUT)}.",
        "",
        *replays.table(found),
    ]
    good, of = sum(one.same for one in found), sum(one.of for one in found)
    return Part("Replay", lines, good, of, "replay {}/{} identical")


def betrayal(folder: Path) -> Part:
    """A server that takes its log back, with real processes: caught by the guard, then by each site."""
    import betrayals

    found = list(betrayals.betray(folder))
    lines = [
        "`stillroom-server serve` and two couriers over mutual TLS. The server is stopped, its log is put",
        "back or written anew, and it is started: first as it is, then with the guard made to fit, as a",
        "malicious operator would. The couriers ran all the time.",
        "",
        "| what is done | what `serve` says | couriers that stopped | what they say |",
        "|---|---|---|---|",
    ]
    for one in found:
        said = " / ".join(dict.fromkeys(one.sites.values()))
        who = f"{len(one.sites)} of {len(betrayals.SITES)}"
        lines.append(f"| {one.crime} | {one.guard} | {who} | {said} |")
    return Part("A server that takes it back", lines, sum(o.caught for o in found), len(found))


def cost(folder: Path) -> Part:
    """Verification of many entries on one core, and the size of a proof."""
    import generation

    from stillroom.server.audit.checks import verify
    from stillroom.server.audit.findings import worst
    from stillroom.server.audit.reading import Given, open_case

    world = generation.generate(folder / "many", MANY, batches=2)
    ledgers = [str(world.ledger(site)) for site in generation.SITES]
    before = time.process_time()
    case = open_case(
        Given(world.log, world.folder / "consortium.json", release=world.release, ledgers=ledgers)
    )
    result = worst(verify(case))
    seconds = time.process_time() - before
    proof = (world.release / "proof/entry.tlog-proof").stat().st_size
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    what = f"`verify` of {MANY} entries, three ledgers and a release: processor seconds"
    lines = [
        "| what | measured | bound |",
        "|---|---|---|",
        f"| {what} | {seconds:.1f} | {MOST_S:.0f} |",
        f"| its memory, MiB, with the tests' own | {mib:.0f} | |",
        f"| a proof of inclusion in it, with three cosignatures: bytes | {proof} | {MOST_PROOF_BYTES} |",
        f"| its result | {result} | not FAILED |",
    ]
    good = (seconds <= MOST_S) + (proof <= MOST_PROOF_BYTES) + (result != "FAILED")
    return Part("Cost", lines, good, 3)


def exports(folder: Path) -> Part:
    """Every entry of a log, and one of every kind, in both audit formats of hospitals: validated."""
    import generation
    import kinds
    import schemas
    import structure

    from stillroom.common.log_entries import parse_entry
    from stillroom.server.audit import export_dicom, export_fhir

    world = generation.generate(folder / "world", 1000)
    entries = list(enumerate([*map(parse_entry, world.entries), *kinds.every_entry()]))
    bundle = "".join(export_fhir.bundle_text(entries, world.origin))
    by_schema = {what.split(".resource")[0] for what in schemas.fhir_problems(json.loads(bundle))}
    by_profile = structure.validate(bundle, folder / "npm")
    messages = list(export_dicom.message_lines(entries, world.origin))
    by_grammar = [message for message in messages if schemas.dicom_problems(message)]
    profile = by_profile.why or f"{by_profile.tried}, {len(by_profile.problems)}"
    of = len(entries)
    models = f"jsonschema {version('jsonschema')}; R4B models of fhir.resources {version('fhir.resources')}"
    rows = {
        f"FHIR | HL7's JSON Schema of R4 (4.0.1), by {models}; what neither knows": f"{of}, {len(by_schema)}",
        f"FHIR | HL7's StructureDefinitions of R4 (4.0.1), by @medplum/core {structure.VERSION}": profile,
        "DICOM | grammar of PS3.15 A.5.1, by libxml2; A.5.2, A.5.3": f"{of}, {len(by_grammar)}",
    }
    lines = ["| format | against | tried, problems |", "|---|---|---|"]
    lines += [f"| {what} | {found} |" for what, found in rows.items()]
    lines += ["", "What these checks are, and are not: [exports](exports.md#how-it-was-checked)."]
    tried = 2 * of + by_profile.tried
    bad = len(by_schema) + len(by_profile.problems) + len(by_grammar)
    return Part("Exports", lines, tried - bad, tried)


PARTS: tuple[Callable[[Path], Part], ...] = (tamper, faults, replay, betrayal, cost, exports)
"""In this order on the page. A part that is counted in the last line has a phrase for it."""


def page(parts: Sequence[Part], verdict: str, seconds: float) -> str:
    """The record, as a page."""
    libraries = f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}"
    lines = [
        "# The log, tried",
        "",
        "Written by `make proof`; do not edit. Every row was done to a log of 1000 entries made with the",
        "program's own code and real keys. Numbers are those of [the checks](../auditors/checks.md).",
        "",
        f"{libraries}, cryptography {version('cryptography')}, {seconds:.0f} s.",
        "",
        f"**{verdict}**",
    ]
    for part in parts:
        lines += ["", f"## {part.title}", "", *part.lines]
    return "\n".join(lines) + "\n"


def _in_scratch(make: Callable[[Path], Part]) -> Part:
    with tempfile.TemporaryDirectory() as scratch:
        return make(Path(scratch))


def main() -> int:
    """Run all parts, write the page, print the line; 1 when anything is short of all."""
    started = time.monotonic()
    logging.disable(logging.CRITICAL)  # studies that are killed a thousand times complain of it
    for name in MODULES:
        load(name)
    # Side by side: each waits for the disk more than it works.
    with ProcessPoolExecutor(len(PARTS), multiprocessing.get_context("fork")) as pool:
        parts = list(pool.map(_in_scratch, PARTS))
    for part in parts:
        typer.echo("\n".join([f"## {part.title}", "", *part.lines, ""]))
    verdict = ", ".join(part.verdict for part in parts if part.phrase)
    PAGE.write_text(page(parts, verdict, time.monotonic() - started), "utf-8")
    typer.echo(verdict)
    return int(any(part.good < part.of or part.of == 0 for part in parts))


if __name__ == "__main__":
    sys.exit(main())
