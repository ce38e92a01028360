"""``stillroom-audit`` as an auditor meets it: output, exit status, files."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from generation import SITES, World
from typer.testing import CliRunner, Result

from stillroom.server.audit.cli import app


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def everything(world: World) -> list[object]:
    options: list[object] = [
        "--consortium",
        world.folder / "consortium.json",
        "--release",
        world.release,
    ]
    for site in SITES:
        options += ["--ledger", world.ledger(site), "--seen", world.seen(site)]
    return options


def test_verify(world: World) -> None:
    """Findings one a line; a result from a subset of the sites is exit status 1, and nothing worse."""
    result = invoke("verify", world.log, *everything(world))

    assert result.exit_code == 1, result.output
    assert re.search(r"^ 4 ok +root: The entries give the root", result.output, re.MULTILINE)
    assert "24 of 167 rounds are a result from a subset" in result.output
    assert "0 FAILED" in result.output
    assert "Not made" not in result.output


def test_verify_says_what_it_did_not_look_at(world: World) -> None:
    """Without ledger, release or kept checkpoint those checks are named as not made."""
    result = invoke("verify", world.log, "--consortium", world.folder / "consortium.json")
    assert "Not made, for want of --seen, --release or --ledger: 8, 40, 41" in result.output


def test_failure_is_status_3(world: World, tmp_path: Path) -> None:
    """A lie ends with the status of every failure of trust."""
    kept = tmp_path / "kept"
    kept.write_bytes(b"not a checkpoint")
    consortium = world.folder / "consortium.json"

    result = invoke("verify", world.log, "--consortium", consortium, "--seen", kept)
    quorum = invoke("verify", world.log, "--consortium", consortium, "--quorum", 4)

    assert (result.exit_code, quorum.exit_code) == (3, 3)
    assert " 8 FAILED" in result.output
    assert "3 of the 4 cosignatures" in quorum.output


@pytest.mark.parametrize("witness", ["north=00", "north", "north+00000000+AAAA"])
def test_bad_witness(world: World, witness: str) -> None:
    """A key that is none is refused before anything is read into it."""
    consortium = world.folder / "consortium.json"
    result = invoke("verify", world.log, "--consortium", consortium, "--witness", witness)
    assert getattr(result.exception, "code", "") == "STR-100"


def test_missing_files(tmp_path: Path, world: World) -> None:
    """What is not there is said by name."""
    consortium = world.folder / "consortium.json"
    for arguments in (
        ["show", tmp_path / "nothing"],
        ["verify", tmp_path / "nothing", "--consortium", consortium],
        ["verify", world.log, "--consortium", tmp_path / "none"],
        ["verify", world.log, "--consortium", consortium, "--run", "another"],
    ):
        result = invoke(*arguments)
        assert getattr(result.exception, "code", "") in {"STR-101", "STR-100"}
    assert getattr(invoke("show", tmp_path).exception, "code", "") == "STR-222"


def test_show(world: World) -> None:
    """Entries by site, round and kind; every filter narrows."""
    result = invoke("show", world.log, "--site", "north", "--stage", "distil", "--round", "3")
    lines = [line for line in result.output.splitlines() if re.match(r" +\d+ 2026", line)]

    assert [line.split()[2] for line in lines] == ["round", "update", "commit"]
    updates = invoke("show", world.log, "--kind", "update", "--site", "lake").output
    assert "site=north" not in updates


def test_compare(world: World) -> None:
    """A ledger laid beside the log, whose ledger it is found by itself or told."""
    for options in ([], ["--site", "north"]):
        result = invoke("compare", world.log, world.ledger("north"), *options)
        assert result.exit_code == 0, result.output
        assert "153 files that left north are in the log" in result.output
    wrong = invoke("compare", world.log, world.ledger("north"), "--site", "lake")
    assert wrong.exit_code == 3


def exported(world: World, tmp_path: Path, kind: str) -> str:
    out = tmp_path / "out"
    assert invoke("export", world.log, "--format", kind, "--out", out).exit_code == 0
    return out.read_text("utf-8")


def test_json_lines(world: World, tmp_path: Path) -> None:
    """Nothing is lost: without its index every line is the entry again."""
    lines = exported(world, tmp_path, "jsonl").splitlines()
    for number, (line, raw) in enumerate(zip(lines, world.entries, strict=True)):
        value = json.loads(line)
        assert value.pop("index") == number
        assert value == json.loads(raw)


def test_csv(world: World, tmp_path: Path) -> None:
    """One row an entry; facts without a column are in the last one."""
    rows = list(csv.DictReader(exported(world, tmp_path, "csv").splitlines()))
    assert len(rows) == len(world.entries)
    first = next(row for row in rows if row["kind"] == "update")
    assert first["site"] == "north"
    assert json.loads(first["rest"])["samples"] == {"all": 11, "teach-": 4}


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """As HTMLParser calls it."""
        self.found += [f"{tag} {k}" for k, _ in attrs if k in {"src", "href", "action", "srcset"}]
        if tag in {"script", "link", "iframe", "object", "embed", "form"}:
            self.found.append(tag)


def test_report(world: World, tmp_path: Path) -> None:
    """One page that holds everything and fetches nothing."""
    out = tmp_path / "report.html"

    result = invoke("report", world.log, *everything(world), "--out", out)

    assert result.exit_code == 1, result.output
    page = out.read_text("utf-8")
    links = Links()
    links.feed(page)
    assert links.found == []
    assert "url(" not in page
    assert "@import" not in page
    for text in (
        "The log holds, with warnings",
        "Not asked, or not counted",
        "has no case with label valve",
        "Participation",
        "Timeline",
        "A result from a subset of the sites",
        "in 24 of 167 rounds a site that was expected did not count.",
        "What left each site",
        "Which models were scored",
        "Every answer that did not count",
        "STR-303",
        "Signature",
    ):
        assert text in page


def test_the_page_escapes(tmp_path: Path, world: World) -> None:
    """What the log says is text, never markup."""
    import tampering

    from stillroom.common import log_entries as said

    evil = "<script>alert(1)</script>"
    bench = tampering.retold(
        tampering.bench_of(world),
        lambda entries: tampering.edited(entries, said.Operator, {}, act=evil),
    )
    for name, data in bench.files.items():
        path = tmp_path / "log" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    consortium = world.folder / "consortium.json"
    invoke("report", tmp_path / "log", "--consortium", consortium, "--out", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_the_command_is_light() -> None:
    """An auditor's machine needs neither torch nor Flower."""
    code = (
        "import sys, stillroom.server.audit.cli, stillroom.server.audit.checks, "
        "stillroom.server.audit.report, stillroom.server.audit.export_fhir; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "flwr", "monai", "pydicom"} & set(done.stdout.split())
