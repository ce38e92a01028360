"""The operator's page in a terminal. Pure: an overview in, something Rich can print out.

Text of others (names, reasons) is printed as it is, never read as Rich's markup.
"""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stillroom.common.errors import CODES
from stillroom.common.markup import data_size, duration, moment, percent, plural
from stillroom.server.page.cost import waits
from stillroom.server.page.overview import Overview, RunNow
from stillroom.server.page.run_view import answers
from stillroom.server.page.troubles import DAY_S, troubles
from stillroom.server.page.view import LATE, current_run
from stillroom.server.page.words import REASONS

RUNS = 5
"""How many of the newest are listed."""


def screen(seen: Overview) -> RenderableType:
    """Everything that fits a terminal."""
    current = current_run(seen.runs)
    parts: list[RenderableType] = [_title(seen), *_troubles(seen), _sites(seen)]
    if current is not None:
        parts += [*_run(current, seen.at), *_stages(current), *_waits(current)]
    parts += [*_refused(seen, current), *_runs(seen)]
    return Group(*parts)


def _title(seen: Overview) -> Text:
    text = Text(seen.consortium or "stillroom", style="bold")
    log = "no log" if seen.log_entries is None else f"log {seen.log_entries} entries"
    free = f"disk {percent(seen.disk_free / seen.disk_size)} free"
    server = "server answers" if seen.is_serving else "server does not answer"
    return text.append(f"   {moment(seen.at)}   {server}   {log}   {free}", style="not bold")


def _troubles(seen: Overview) -> list[RenderableType]:
    found = troubles(seen)
    if not found:
        return [Text("Nothing needs an operator now.", style="green")]
    return [
        Text("! ", style="bold red").append(one.what).append(f" {one.fix}", style="dim")
        for one in found
    ]


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(*heads, title=Text(title), title_justify="left", title_style="bold", box=None,
                  header_style="dim", pad_edge=False)  # fmt: skip
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def _sites(seen: Overview) -> Table:
    rows = []
    for site in seen.sites:
        past = None if site.last_seen is None else max(0.0, seen.at - site.last_seen)
        days = None if site.not_after is None else int((site.not_after - seen.at) // DAY_S)
        rows.append(
            (
                site.name,
                site.status,
                site.version or "—",
                "not yet" if past is None else f"{duration(past)} ago",
                "—" if days is None else plural(days, "day"),
                data_size(site.bytes_in),
                data_size(site.bytes_out),
            )
        )
    heads = ("site", "standing", "version", "last seen", "certificate", "received", "sent")
    return _table("\nSites", heads, rows)


def _run(one: RunNow, at: float) -> list[RenderableType]:
    now = one.now
    lines = [f"\nRun {one.run.name}: {now.state}{f', {now.stages}' if now.stages else ''}"]
    if now.since is not None:
        lines.append(
            f"  open for {duration(max(0.0, at - now.since))}; answered "
            f"{', '.join(now.answered) or 'nobody'}; awaited {', '.join(now.awaited) or 'nobody'}"
        )
    lines += [f"  {text}" for text in (now.reason, now.last) if text]
    return [Text("\n".join(lines))]


def _stages(one: RunNow) -> list[RenderableType]:
    rows = []
    for stage in one.summary["stages"]:
        records = stage["rounds"]
        if not records:
            continue
        last = records[-1]
        sites = last.get("sites") or {}
        losses = [
            f"{name} {entry['metrics']['train.loss']:.3f}"
            for name, entry in sites.items()
            if "train.loss" in (entry.get("metrics") or {})
        ]
        rows.append(
            (
                stage["name"],
                f"{len(records)} of {stage['of']}",
                duration(float(last.get("seconds") or 0)),
                f"{len(last.get('order') or ())} of {len(sites)}",
                "  ".join(losses) or "—",
            )
        )
    heads = ("stage", "rounds", "last took", "counted", "last loss")
    return [_table("", heads, rows)] if rows else []


def _waits(one: RunNow) -> list[RenderableType]:
    found = waits(record for _, _, record in one.rounds())
    rows = [(w.site, w.rounds, duration(w.longer_s), duration(w.others_s)) for w in found]
    heads = ("slowest site", "rounds", "rounds were longer by", "others waited")
    return [_table("\nWho waited for whom", heads, rows)] if rows else []


def _refused(seen: Overview, current: RunNow | None) -> list[RenderableType]:
    rows = [(reason, REASONS.get(reason, ""), n) for reason, n in sorted(seen.refused.items())]
    if current is not None:
        rows += [(code, CODES.get(code) or LATE.get(code, ""), n)
                 for code, n in sorted(answers(current).items())]  # fmt: skip
    return [_table("\nRefused", ("reason", "what", "times"), rows)] if rows else []


def _runs(seen: Overview) -> list[RenderableType]:
    rows = [
        (one.run.number, one.run.name, one.now.study, one.now.state, one.now.last)
        for one in reversed(seen.runs[-RUNS:])
    ]
    heads = ("number", "run", "study", "state", "last")
    return [_table("\nNewest runs", heads, rows)] if rows else []
