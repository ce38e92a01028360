"""The documentation says nothing that is not there: links, commands, options, codes, files, examples."""

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import typer

from stillroom.client.cli import app as client
from stillroom.client.config import SiteConfig
from stillroom.client.intake.rules import LabelRule
from stillroom.common.errors import CODES
from stillroom.deploy.cli import app as rehearse
from stillroom.server.audit.checks import CHECKS
from stillroom.server.audit.cli import app as audit
from stillroom.server.cli import app as server
from stillroom.server.config import ServerConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = {
    "stillroom-audit": typer.main.get_command(audit),
    "stillroom-client": typer.main.get_command(client),
    "stillroom-server": typer.main.get_command(server),
    "stillroom-rehearse": typer.main.get_command(rehearse),
}
HOSTS = {
    "flower.ai",
    "arxiv.org",
    "doi.org",
    "docs.monai.io",
    "github.com",
    "keepachangelog.com",
    "semver.org",
    "pacs.hospital.example",
    "proxy.hospital.example",
    "pacs.example",
}
"""Hosts that a page may name; anything else needs a thought."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FORMAT = re.compile(r"stillroom-[a-z]+-\d")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    """A page's Markdown."""
    return page.read_text("utf-8")


def fences(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of some languages."""
    return [body for language, body in FENCE.findall(text_of(page)) if language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def anchors(page: Path) -> set[str]:
    """Fragments that a page's headings make, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in kept}


@pages
def test_links_resolve(page: Path) -> None:
    """Every relative link names a file of the repository, and every fragment a heading in it."""
    for link in LINK.findall(prose(page)):
        if urlsplit(link).scheme:
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if fragment:
            assert fragment in anchors(target), f"{link} names no heading"


@pages
def test_no_orphans(page: Path) -> None:
    """Every page can be reached from another one."""
    linked = {
        (other.parent / link.partition("#")[0]).resolve()
        for other in PAGES
        if other != page
        for link in LINK.findall(prose(other))
    }
    assert page.name == "README.md" or page in linked


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Command lines of ours on a page, and whether each stands complete in a block."""
    for body in fences(page, "", "sh", "console", "text"):
        for raw in body.replace("\\\n", " ").splitlines():
            line = raw.strip().removeprefix("$ ")
            if line.startswith("stillroom-"):
                yield line, True
    for span in CODE.findall(prose(page)):
        if span.startswith("stillroom-") and not FORMAT.fullmatch(span):
            yield span, False


@pages
def test_commands_exist(page: Path) -> None:
    """Every quoted command line parses: subcommands, options and, in a block, what is required."""
    for line, is_whole in commands(page):
        program, *arguments = shlex.split(line, comments=True)
        assert program in SCRIPTS, f"there is no {program}"
        command: click.Command = SCRIPTS[program]
        while isinstance(command, click.Group) and arguments:
            found = command.commands.get(arguments[0])
            assert found is not None, f"{line}: there is no {arguments[0]}"
            command, arguments = found, arguments[1:]
        if isinstance(command, click.Group):
            continue
        try:
            context = command.make_context(program, arguments, resilient_parsing=True)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")
        missing = [p.name for p in command.params if p.required and not context.params[str(p.name)]]
        assert not (is_whole and missing), f"{line}: lacks {missing}"


@pages
def test_codes_are_registered(page: Path) -> None:
    """Every error code mentioned is one that the program can give."""
    assert set(re.findall(r"STR-\d{3}", text_of(page))) <= CODES.keys()


def test_every_data_code_is_explained_to_hospitals() -> None:
    """Hospital IT finds each quarantine code with its cause and its remedy."""
    page = text_of(ROOT / "docs/hospital-it/index.md")
    wanted = [code for code in CODES if code >= "STR-410" and code < "STR-500"]
    assert [code for code in wanted if f"| `{code}` |" not in page] == []


def test_every_check_is_explained_to_auditors() -> None:
    """By number and name, in order."""
    text = text_of(ROOT / "docs/auditors/checks.md")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    wanted = [(str(check.number), check.title) for check in CHECKS]
    assert [row for row in rows if row in wanted] == wanted


@pages
def test_named_files_exist(page: Path) -> None:
    """A page that sends its reader to a source file sends them somewhere."""
    # The one file that readers of the developers' page are asked to write.
    planned = {"client/stillroom/client/recipes/supervised.py"}
    for span in CODE.findall(prose(page)):
        if (
            re.match(r"(common|server|client|deploy)/stillroom/|tests/", span)
            and span not in planned
        ):
            assert list(ROOT.glob(span.rstrip("/"))), f"there is no {span}"


@pages
def test_modules_and_targets_exist(page: Path) -> None:
    """`python -m stillroom...` names a module and `make ...` a target."""
    makefile = text_of(ROOT / "Makefile")
    blocks = "\n".join(fences(page, "", "sh", "console"))
    for name in re.findall(r"python3? -m (stillroom[\w.]+)", text_of(page)):
        assert importlib.util.find_spec(name) is not None
    for target in re.findall(r"^make (\w+)", blocks, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"there is no target {target}"


@pages
def test_nothing_of_a_machine(page: Path) -> None:
    """No path of somebody's machine, no package registry, no host that is not known here."""
    text = text_of(page)
    assert re.findall(r"/(?:work|root|home|tmp|Users)/\S*", text) == []
    assert re.findall(r"index-url|pythonhosted|pypi\.\w+|/simple/", text) == []
    hosts = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s)\"'`<>]+", text)}
    assert hosts <= HOSTS


@pages
def test_examples_are_valid(page: Path) -> None:
    """TOML on a page is accepted by the program, and Python compiles."""
    for body in fences(page, "python"):
        ast.parse(body)
    for body in fences(page, "toml"):
        example = tomllib.loads(body)
        for rule in example.get("labels", {}).values():
            LabelRule.model_validate(rule)
        if "site" in example:
            SiteConfig.model_validate(example)
        elif "edge_port" in example:
            assert example.keys() <= ServerConfig.model_fields.keys()


def test_pictures_are_small() -> None:
    """Pictures do not fatten the repository."""
    pictures = [p for p in (ROOT / "docs").rglob("*") if p.suffix in {".png", ".svg"}]
    assert pictures
    assert max(p.stat().st_size for p in pictures) < 150_000
