"""Sections of the page about one process and about a long study."""

from collections.abc import Mapping, Sequence
from typing import Any


def alone(found: Mapping[str, Any]) -> list[str]:
    """What needs no consortium: one process, one thing."""
    training = found["training"]
    said = "Not measured."
    if "ratio" in training:
        said = (
            f"Training runs at {100 * training['ratio']:.1f} % of the same loop run bare, in one"
            " process, on the same data, in turns of ten steps; by processor time at"
            f" {100 * training['cpu_ratio']:.1f} % (`tests/bench/bench_training.py`)."
        )
    return [said, "", *_adding(found["aggregation"])]


def _adding(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Adding updates up, and what it takes to write, read and finish them."""
    adds = next((row for row in rows if "add_over_copy" in row), None)
    if adds is None:
        return ["Adding updates up was not measured."]
    naive = adds["naive_mb_s"] / adds["copy_mb_s"]
    said = (
        f"An update of {rows[0]['model_mb']:.0f} MB is added at {adds['add_mb_s'] / 1e3:.1f} GB of model a"
        f" processor second, {adds['add_over_copy']:.2f} of what `np.copyto` reaches; a sum written"
        f" naively in numpy at {naive:.2f} of it (`tests/bench/bench_aggregation.py`)."
    )
    table = [
        said,
        "",
        "| encoding | written at MB/s | read at MB/s | share of fp32 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if "encoding" in row:
            speeds = f"{row['encode_mb_s']:.0f} | {row['decode_mb_s']:.0f}"
            table.append(f"| {row['encoding']} | {speeds} | {row['share']:.3f} |")
    table += ["", "| round | s to add one update | s to make the next model |", "|---|---|---|"]
    for row in rows:
        if "round" in row:
            table.append(
                f"| {row['round']} | {row['add_s_per_site']:.2f} | {row['finish_s']:.2f} |"
            )
    return table


def soak(found: Mapping[str, Any]) -> list[str]:
    """A long study: what every process gained, and its open files."""
    if "rounds" not in found:
        return [found.get("missing", "Not measured.")]
    table = [
        f"{found['rounds']} rounds of the small model, {found['round_s']:.2f} s each.",
        "",
        "| process | KiB per round, second half | KiB gained in all | open descriptors, early and late |",
        "|---|---|---|---|",
    ]
    for name, slope in found["slope"].items():
        early, late = found["files"][name]
        gained = found["gained"][name]
        table.append(f"| {name} | {slope:+.2f} | {gained:+.0f} | {early}, {late} |")
    if "memory" in found:
        table += ["", "![Memory of every process in the course of the soak](soak.svg)"]
    return table
