"""Writes docs/reference/performance.{json,md,svg} and soak.svg from what was measured."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import page_alone
import plot
from bars import bars

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
MIB = 2**20
NOISE = (
    "Training is left out: every site adds normal noise of standard deviation 1e-3 to weights of"
    " standard deviation 0.02 (`tests/bench/inject/noise.py`). Its mantissas are random, so nothing"
    " packs them; real changes of weights are spread over more sizes and pack no worse."
)


COLUMNS = (
    "Medians of rounds after the first. *Peak* is the sum of the peaks of all processes of the"
    " server. Bytes are counted by the kernel on the server's port, TLS included."
)


def performance(results: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is published, bars among it."""
    model = results["model_bytes"]
    rows = [row for row in results.get("main", ()) if "missing" not in row]
    ours = [row for row in rows if "encoding" in row]
    peak = max((row["server_peak_mib"] for row in ours), default=0.0) * MIB / model
    found = {
        "machine": results["machine"],
        "load_before": results.get("loads", {}),
        "model_bytes": model,
        "server_peak_over_model": round(peak, 3),
        "systems": summaries(results.get("main", ())),
        "scale": results.get("scale", []),
        "tiny": summaries(results.get("tiny", ())),
        "simulation": results.get("simulation", []),
        "soak": results.get("soak", {}),
        "training": results.get("training", {}),
        "aggregation": results.get("aggregation", []),
        "runs": results.get("main", []),
    }
    return {**found, "bars": bars(found)}


def summaries(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per system: medians over all its later rounds, and of its first ones."""
    by_system: dict[str, list[Mapping[str, Any]]] = {}
    missing = []
    for row in rows:
        if "missing" in row:
            missing.append({"system": row["system"], "missing": row["missing"]})
        else:
            by_system.setdefault(row["system"], []).append(row)
    found = []
    for system, runs in by_system.items():
        later = [(run, n) for run in runs for n in range(1, len(run["wall_s"]))]
        found.append(
            {
                "system": system,
                "runs": len(runs),
                "rounds": len(later),
                "first_wall_s": _median(run["wall_s"][0] for run in runs),
                "wall_s": _median(run["wall_s"][n] for run, n in later),
                "wall_least_s": min((run["wall_s"][n] for run, n in later), default=None),
                "cpu_s": _median(run["cpu_s"][n] for run, n in later),
                "server_cpu_s": _median(run["server_cpu_s"][n] for run, n in later),
                "up": _median(run["bytes_up_per_site"][n] for run, n in later),
                "down": _median(run["bytes_down_per_site"][n] for run, n in later),
                "files_up": _median(
                    run["files"][n]["up_over_model"] for run, n in later if run["files"]
                ),
                "files_down": _median(
                    run["files"][n]["down_over_model"] for run, n in later if run["files"]
                ),
                "server_peak_mib": max(run["server_peak_mib"] for run in runs),
                "peak_mib": _most(run["peak_mib"] for run in runs),
                "cpu_by_process": _spread(later),
                "phases": _phases(later),
                "notes": runs[0]["notes"],
            }
        )
    return found + missing


def _spread(rounds: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, float]:
    """Median CPU seconds of a round by kind of process, all sites of a kind together."""
    kinds: dict[str, list[float]] = {}
    for run, n in rounds:
        total: dict[str, float] = {}
        for name, value in run["cpu_s_by_process"][n].items():
            kind = f"sites' {name[9:] or 'parent'}" if name.startswith("site-") else name
            total[kind] = total.get(kind, 0.0) + value
        for kind, value in total.items():
            kinds.setdefault(kind, []).append(value)
    return {kind: round(statistics.median(values), 2) for kind, values in kinds.items()}


def _phases(rounds: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, float]:
    known = [run["phases"][n] for run, n in rounds if run["phases"]]
    return {name: _median(p[name] for p in known) for name in (known[0] if known else ())}


def _most(peaks: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for peak in peaks:
        for name, value in peak.items():
            found[name] = max(value, found.get(name, 0.0))
    return found


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return round(statistics.median(known), 4) if known else None


def write(found: Mapping[str, Any]) -> None:
    """Replace the page, its figures and its pictures."""
    text = json.dumps(found, indent=1) + "\n"
    (FOLDER / "performance.json").write_text(text, "utf-8")
    (FOLDER / "performance.svg").write_text(plot.picture(found), "utf-8")
    if "memory" in found["soak"]:
        (FOLDER / "soak.svg").write_text(plot.memory(found["soak"]), "utf-8")
    (FOLDER / "performance.md").write_text("\n".join(_lines(found)) + "\n", "utf-8")


def _lines(found: Mapping[str, Any]) -> list[str]:
    return [
        "# What a round costs",
        "",
        "Written by `make bench`; do not edit. All figures: [performance.json](performance.json).",
        "",
        *_where(found["machine"], found["load_before"]),
        f"A model of {found['model_bytes'] / 1e6:.1f} MB (SwinUNETR-48: 62.2 million float32"
        " weights in 151 tensors), three sites. " + NOISE,
        "",
        "![Wall time, server memory and bytes of a round](performance.svg)",
        "",
        "## Bars",
        "",
        "| bar | measured | met |",
        "|---|---|---|",
        *(f"| {b['name']} | {b['said']} | {_met(b['met'])} |" for b in found["bars"]),
        "",
        *(
            f"- **{b['name']}**: {b['why']}"
            for b in found["bars"]
            if b["met"] is False and b["why"]
        ),
        "",
        "## A round of 62 million weights, three sites",
        "",
        COLUMNS,
        "",
        *_systems(found["systems"], found["model_bytes"]),
        "",
        *_profile(found["systems"]),
        "## The server's memory and the number of sites",
        "",
        *_scale(found["scale"], found["model_bytes"]),
        "",
        "## A model that costs nothing to move",
        "",
        "28 kB, three sites: what is left of a round is waiting.",
        "",
        *_systems(found["tiny"], None),
        "",
        "## Many sites in one process",
        "",
        *_simulation(found["simulation"]),
        "",
        "## Training through the platform, and adding updates up",
        "",
        *page_alone.alone(found),
        "",
        "## A long study",
        "",
        *page_alone.soak(found["soak"]),
    ]


def _where(machine: Mapping[str, Any], loads: Mapping[str, float]) -> list[str]:
    python, flower = machine["python"], machine["flwr"]
    where = f"{machine['cores']} cores, {machine['memory_gib']} GiB, Python {python}, flwr {flower}"
    said = ", ".join(f"{part} {load:.1f}" for part, load in loads.items() if load is not None)
    return [
        f"{where}; over loopback, with TLS. Whatever is compared was measured in turn, in one run.",
        f"Load average just before each part, of the minute: {said}.",
    ]


def _met(met: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "not measured"}[met]


def _systems(rows: Sequence[Mapping[str, Any]], model: int | None) -> list[str]:
    table = [
        "| | first round s | round s | CPU s | of it server | MB up per site | MB down | server peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "missing" in row:
            table.append(f"| {row['system']} | {row['missing']} | | | | | | |")
            continue
        over = f" ({row['server_peak_mib'] * MIB / model:.1f}x)" if model else ""
        table.append(
            f"| {row['system']} | {row['first_wall_s']:.1f} | {row['wall_s']:.2f} "
            f"| {row['cpu_s']:.1f} | {row['server_cpu_s']:.1f} | {row['up'] / 1e6:.1f} "
            f"| {row['down'] / 1e6:.1f} | {row['server_peak_mib']:.0f}{over} |"
        )
    return table


def _profile(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the CPU seconds and the wall time of a round go."""
    lines = ["CPU seconds of a round, by process:", ""]
    for row in rows:
        if "missing" not in row:
            parts = sorted(row["cpu_by_process"].items(), key=lambda item: -item[1])
            said = ", ".join(f"{name} {value:.1f}" for name, value in parts if value >= 0.05)
            lines.append(f"- {row['system']}: {said}.")
    lines += ["", "Seconds from the opening of a round:", ""]
    for row in rows:
        if row.get("phases"):
            said = ", ".join(f"{n.replace('_', ' ')} {v:.1f}" for n, v in row["phases"].items())
            lines.append(f"- {row['system']}: {said}.")
    lines += ["", "Most resident memory of every process, MiB:", ""]
    for row in rows:
        if "missing" not in row:
            said = ", ".join(f"{name} {value:.0f}" for name, value in row["peak_mib"].items())
            lines.append(f"- {row['system']}: {said}.")
    return [*lines, ""]


def _scale(rows: Sequence[Mapping[str, Any]], model: int) -> list[str]:
    table = ["| encoding | sites | server peak MiB | over the model |", "|---|---|---|---|"]
    for row in rows:
        if "missing" in row:
            table.append(f"| {row.get('system')} | | {row['missing']} | |")
        else:
            peak = row["server_peak_mib"]
            table.append(
                f"| {row['encoding']} | {row['sites']} | {peak:.0f} | {peak * MIB / model:.2f} |"
            )
    note = "With more than four sites, two train at a time: this machine could not hold more."
    return [*table, "", note]


def _simulation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [
        "| sites | round s | ms per site and round | peak MiB of the process |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if "missing" in row:
            table.append(f"| {row['sites']} | {row['missing']} | | |")
        else:
            table.append(
                f"| {row['sites']} | {row['round_s']:.2f} | {row['ms_per_site_and_round']:.1f} "
                f"| {row['peak_mib']:.0f} |"
            )
    return table
