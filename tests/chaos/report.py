"""Writes docs/reference/chaos.md from what was tried."""

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import points

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "chaos.md"
PARTS = ("kills", "lines", "faults")

RESUME_S = 10.0
"""The bar: work goes on within this time of the killed process being there again."""

Row = Mapping[str, Any]


def whole(results: Mapping[str, Any]) -> bool:
    """Whether every part was tried, and every point of the matrix."""
    if any(part not in results for part in PARTS):
        return False
    return len(results["kills"]["rows"]) == sum(map(len, points.MATRIX.values()))


def write(results: Mapping[str, Any]) -> None:
    """Replace the page."""
    PAGE.write_text("\n".join(_lines(results)) + "\n", "utf-8")


def verdict(results: Mapping[str, Any]) -> tuple[str, bool]:
    """The line that ``make chaos`` ends with, and whether nothing was lost."""
    rows = [row for part in ("kills", "sample") for row in results.get(part, {}).get("rows", ())]
    wrong, lost = (sum(part[key] for part in results.values()) for key in ("wrong", "lost"))
    survived = sum(row["survived"] for row in rows)
    line = f"kills {survived}/{len(rows)} survived, wrong aggregates {wrong}, rounds lost {lost}"
    return line, survived == len(rows) and not wrong and not lost


def times(rows: Sequence[Row]) -> list[tuple[str, int, float, float, float]]:
    """What died, how often, and seconds until work went on.

    Median and most from the kill, and the most from the restart.
    """
    found = []
    for who in points.MATRIX:
        ours = [row for row in rows if row["who"] == who and row["resumed_s"] is not None]
        seconds = [row["resumed_s"] for row in ours]
        if seconds:
            back = max(map(_back, ours))
            found.append((who, len(seconds), statistics.median(seconds), max(seconds), back))
    return found


def _back(row: Row) -> float:
    """Seconds from the restart; none where the others went on before it."""
    return max(0.0, float(row["resumed_s"]) - float(row["away_s"]))


def _within(rows: Sequence[Row]) -> str:
    """How many reach the bar."""
    seconds = [_back(row) for row in rows if row["resumed_s"] is not None]
    good = sum(value <= RESUME_S for value in seconds)
    return f"**within {RESUME_S:.0f} s of the restart: {good}/{len(rows)}**"


def _lines(results: Mapping[str, Any]) -> list[str]:
    kills, lines, faults = (results[part] for part in PARTS)
    return [
        "# Kills, bad lines and full disks, tried",
        "",
        "Written by `make chaos`; do not edit. Every row happened to a consortium of real processes",
        "(a server, two or three sites, mutual TLS) on one machine. Training is replaced by noise that",
        "can be made again, so that every round's model is computed once more by other code and",
        "compared to the last bit.",
        "",
        _where(results),
        "",
        f"**{verdict(results)[0]}**",
        "",
        *_problems(results),
        "## Killed",
        "",
        "`kill -9` at a named moment of a round; what died is started again at once or after up to three",
        "seconds, as a service manager does. Work goes on when the next answer, training or commit is",
        "seen. Five kinds of processes die in one study, and one may die while another comes back: then",
        "the seconds hold both. A machine with other work to do takes longer over it. The bar is ten",
        "seconds from the restart:",
        "",
        _within(kills["rows"]),
        "",
        "| killed | kills | goes on after s, median | most | most from the restart |",
        "|---|---|---|---|---|",
        *(
            f"| {who} | {n} | {mid:.1f} | {most:.1f} | {back:.1f} |"
            for who, n, mid, most, back in times(kills["rows"])
        ),
        "",
        "| killed | moment | round | survived | goes on after s |",
        "|---|---|---|---|---|",
        *(_kill(row) for row in kills["rows"]),
        "",
        "## Bad lines",
        "",
        *_of_lines(lines),
        "",
        "## Full disks and clocks that jump",
        "",
        "A disk is filled while a round is under way and emptied once its error was named; a run that it",
        "paused is resumed by the operator. A clock jumps by ten minutes inside one process and is set",
        "right after twenty seconds. A fault of one site of three may cost that site a round, not the",
        "study. Codes are those that logs named meanwhile: [error codes](errors.md).",
        "",
        "| fault | study | s | told as |",
        "|---|---|---|---|",
        *(_fault(row) for row in faults["rows"]),
    ]


def _where(results: Mapping[str, Any]) -> str:
    seconds = sum(part["seconds"] for part in results.values())
    versions = f"Python {platform.python_version()}, flwr {version('flwr')}"
    loads = [f"{name} {part['load']}" for name, part in results.items() if "load" in part]
    load = f" Load average, 15 minutes: {', '.join(loads)}." if loads else ""
    return f"{versions}, {os.cpu_count()} cores, {seconds:.0f} s.{load}"


def _problems(results: Mapping[str, Any]) -> list[str]:
    found = [problem for part in results.values() for problem in part["problems"]]
    if not found:
        return []
    return ["What did not hold:", "", *(f"- {problem}" for problem in found), ""]


def _kill(row: Row) -> str:
    seconds = "-" if row["resumed_s"] is None else f"{row['resumed_s']:.1f}"
    kept = "yes" if row["survived"] else "**no**"
    return f"| {row['who']} | {row['moment']} | {row['round']} | {kept} | {seconds} |"


def _of_lines(part: Row) -> list[str]:
    if "left_out" in part:
        return [f"Not tried here: {part['left_out']}."]
    return [
        "Two sites, two rounds of a 4.2 MB model, over lines of 4 Mbit/s with 100 ms each way and 1 % of",
        "the packets lost; the cuts are of the first site's line. Shares are of the bytes of the files",
        "that had to cross, beyond what the same study put on a line that loses nothing. *Again*: on the",
        "line once more because a connection broke, with the requests and handshakes of that; the bar is",
        "5 %. *With TCP's*: what TCP repeated within its connections too, for the packets lost.",
        "*Handed over*: bytes of files given to connections at both ends beyond the files' own, with",
        "what never reached the line.",
        "",
        "| line | study | s | again | with TCP's | handed over |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['line']} | {_ended(row)} | {row['seconds']} | {_share(row['again'])} "
            f"| {_share(row['on_the_line'])} | {_share(row['handed_over_again'])} |"
            for row in part["rows"]
        ),
    ]


def _fault(row: Row) -> str:
    if "left_out" in row:
        return f"| {row['fault']} | not tried here: {row['left_out']} | | |"
    codes = ", ".join(f"`{code}`" for code in row["codes"]) or "-"
    return f"| {row['fault']} | {_ended(row)} | {row['seconds']} | {codes} |"


def _ended(row: Row) -> str:
    problems: Iterable[str] = row["problems"]
    return "completed" if not problems else f"**{'; '.join(problems)}**"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
