"""``stillroom-client data pull``: scans from the hospital's PACS into its own data folder."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from stillroom.client.config import SiteConfig
    from stillroom.client.pacs.pull import Rhythm, State, Summary, Watcher
    from stillroom.client.pacs.section import PacsSection
    from stillroom.client.pacs.wishes import Wish


def pull(
    config: Annotated[Path, typer.Option(help="site.toml with [pacs].")],
    accessions: Annotated[
        Path | None, typer.Option(help="File with one accession number a line.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="CSV with a column AccessionNumber or StudyInstanceUID."),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What a study must match; may be repeated."),
    ] = None,
    study_uid: Annotated[
        list[str] | None, typer.Option(help="A study by its UID; may be repeated.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Do not heed the hours of [pacs].")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End rather than wait for those hours (STR-450).")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Fetch CT studies from the PACS of [pacs], counted and without identity.

    May be ended at any moment; the same command goes on where it was. Exit status 0: all that was
    asked for lies here or was refused for what it is; 5: something is missing, see the codes.
    """
    from rich.console import Console

    from stillroom.client.config import SiteConfig
    from stillroom.client.pacs.hours import Window
    from stillroom.client.pacs.pull import Rhythm

    site = SiteConfig.load(config)
    pacs = _section(site)
    wishes = _wishes(accessions, csv, query, study_uid)
    hours = None if now or pacs.hours is None else Window.parse(pacs.hours)
    with _watched(Console(stderr=True, highlight=False), quiet=json_) as watcher:
        summary = _fetch(site, wishes, Rhythm(hours, is_patient=not no_wait), watcher)
    if json_:
        typer.echo(json.dumps(_plain(summary)))
    else:
        _print(Console(highlight=False), summary)
    _raise_for(summary)


def _section(site: "SiteConfig") -> "PacsSection":
    if site.pacs is None:
        raise ConfigError(
            "site.toml has no [pacs].",
            fix="Write one; docs/hospital-it/pacs.md has an example.",
            code="STR-102",
        )
    return site.pacs


def _fetch(
    site: "SiteConfig", wishes: "Sequence[Wish]", rhythm: "Rhythm", watcher: "Watcher"
) -> "Summary":
    """One pull, from the opening of its journal to its close."""
    from stillroom.client.pacs.journal import opened
    from stillroom.client.pacs.opening import open_archive
    from stillroom.client.pacs.pull import Pull

    pacs = _section(site)
    with opened(pacs.state) as (journal, key), closing(open_archive(pacs)) as archive:
        puller = Pull(
            archive, pacs, journal, key, names=_names(site), rhythm=rhythm, watcher=watcher
        )
        return puller.run(wishes)


def _raise_for(summary: "Summary") -> None:
    """The error that ended it, or one for what is missing; nothing where all is here."""
    if summary.ended is not None:
        raise summary.ended
    if failed := summary.count("failed"):
        raise DataError(
            f"Missing: {failed} of {len(summary.outcomes)} series or lines.",
            fix="Follow the fixes above, then run the same command again.",
            code=_first_failure(summary),
        )


def _wishes(
    accessions: Path | None,
    csv: Path | None,
    query: Sequence[str] | None,
    study_uid: Sequence[str] | None,
) -> "list[Wish]":
    from stillroom.client.pacs import wishes

    if sum(bool(way) for way in (accessions, csv, query, study_uid)) != 1:
        raise ConfigError(
            "Nothing was asked for, or in two ways at once.",
            fix="Give one of --accessions, --csv, --query and --study-uid.",
            code="STR-100",
        )
    if accessions is not None:
        return wishes.of_accessions(accessions)
    if csv is not None:
        return wishes.of_csv(csv)
    return wishes.of_query(query) if query else wishes.of_uids(study_uid or ())


def _names(site: "SiteConfig") -> list[str]:
    """Names of segments and structures that the site's own rules look for."""
    names = [] if site.roi is None else [site.roi.name]
    for rule in site.labels.values():
        for own, theirs in rule.classes.items():
            names += [own, str(theirs)]
    return names


@contextmanager
def _watched(console: "Console", *, quiet: bool) -> "Iterator[Watcher]":
    """Bars on standard error: lines of the list, and instances of the series under way."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )
    from typing_extensions import override

    from stillroom.client.pacs.pull import Watcher

    lines = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"), console=console, transient=True, disable=quiet,
    )  # fmt: skip

    received = 0

    class Bars(Watcher):
        @override
        def line(self, number: int, total: int) -> None:
            lines.update(listed, completed=number - 1, total=total, note="")

        @override
        def series(self, expected: int) -> None:
            lines.reset(images, total=expected or None, note="")

        @override
        def instance(self, size: int) -> None:
            nonlocal received
            received += size
            lines.update(images, advance=1, note=f"{received / 2**20:.1f} MiB so far")

        @override
        def waits(self, until: str) -> None:
            lines.update(listed, note=f"waiting for {until}")

    with lines:
        listed = lines.add_task("studies", total=None, note="")
        images = lines.add_task("images of this series", total=None, note="")
        yield Bars()


def _print(console: "Console", summary: "Summary") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("series", "how many", "what"):
        table.add_column(heading, justify="right" if heading == "how many" else "left")
    says: dict[State, str] = {
        "complete": "fetched, every instance counted",
        "already": "already here, still complete",
        "refused": "not kept, for what they are",
        "failed": "missing; the next run asks again",
    }
    for state, text in says.items():
        table.add_row(state, str(summary.count(state)), text)
    console.print(table)
    for code, (what, fix, numbers) in _by_code(summary).items():
        where = "" if numbers == [0] else f" ({_ranges(numbers)})"
        console.print(f"\n[yellow]{code}[/] {escape(what)}{where}", soft_wrap=True)
        console.print(f"fix: {escape(fix)}", soft_wrap=True)
    console.print(f"\n{summary.instances} instances, {summary.bytes / 2**20:.1f} MiB written.")


def _by_code(summary: "Summary") -> dict[str, tuple[str, str, list[int]]]:
    found: dict[str, tuple[str, str, list[int]]] = {}
    for one in summary.outcomes:
        if one.code:
            numbers = found.setdefault(one.code, (one.what, one.fix, []))[2]
            if one.line not in numbers:
                numbers.append(one.line)
    return found


def _ranges(numbers: Sequence[int]) -> str:
    """``lines 1-3, 7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    text = ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
    return f"line {text}" if text.isdigit() else f"lines {text}"


def _plain(summary: "Summary") -> dict[str, object]:
    states: tuple[State, ...] = ("complete", "already", "refused", "failed")
    return {
        **{state: summary.count(state) for state in states},
        "instances": summary.instances,
        "bytes": summary.bytes,
        "ended": None if summary.ended is None else summary.ended.code,
        "codes": {code: numbers for code, (_, _, numbers) in _by_code(summary).items()},
    }


def _first_failure(summary: "Summary") -> str:
    return next(one.code for one in summary.outcomes if one.state == "failed")
