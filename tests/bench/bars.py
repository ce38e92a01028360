"""What the bench is held to, and what it found. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

MIB = 2**20
_SITES = (
    "The process that adds updates up is flat to 2 MiB. `serve` takes 6 MiB for each site: 1.6 for its "
    "connections (16 sites and a model of 28 kB), the rest in TLS and HTTP buffers of files that move at "
    "the same time, mostly uploads; the heap keeps that afterwards. Pieces of 256 KiB in place of 1 MiB "
    "brought it from 18 % to this. Smaller ones, other limits of asyncio's buffers, fewer malloc "
    "arenas: tried, and of no use or dear."
)
_SOAK = (
    "`serve` goes up and down by 3 MiB, so that a slope over 250 rounds says what the last of them did. An "
    "earlier soak of 1500 rounds had -0.15 KiB a round for it and 1 KiB for runners and study process; no "
    "process gained more than 3.3 MiB between the first fifth and the last. Couriers gained 1.7 KiB a round "
    "there: tracemalloc over 170 rounds found the digests of all models they ever had, which are forgotten "
    "now, Flower's nonces of the last 305 s, and pydantic's cache of strings, which is bounded."
)
WHY: dict[str, str] = {
    "soak of 500 rounds: KiB of memory per round": _SOAK,
    "int8-delta <= 0.6x NVFlare's default": "An earlier run had 0.57x, NVFlare taking 12.9 s. Of "
    "a round's ten processor seconds on two cores half are the couriers': under cProfile, writing one "
    "update reads and writes files for 0.5 s (0.2 for what rounding lost), hashes for 0.33 and packs "
    "for 0.12. Then the server makes the new model in one process, in 1.2 to 1.7 s.",
    "fp32: server peak within 10 % from 2 to 16 sites": _SITES,
    "int8-delta: server peak within 10 % from 2 to 16 sites": _SITES,
    "a round of a tiny model <= 1 s": "Processor time: some hundred and fifty small requests a round on "
    "all hops, half of them for one object of a message each, and appends to the log that wait for "
    "the disk.",
}
"""Bar -> why it is not reached, in words that a profile bears out."""

Row = Mapping[str, Any]


def bars(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every bar with what was measured; ``met`` is None where something was not."""
    by = {row["system"]: row for row in found["systems"] if "missing" not in row}
    tiny = {row["system"]: row for row in found["tiny"] if "missing" not in row}
    flare, flower = by.get("NVFlare 2.9.0"), by.get("plain Flower 1.41")
    rows = [
        _bar(
            "all server processes together <= 3x the model",
            found["server_peak_over_model"] or None,
            3.0,
            "x",
        ),
        *_flat(found["scale"]),
        *(
            _bar(
                f"{encoding}: bytes of files <= {most}x, each way", _bytes(by, encoding), most, "x"
            )
            for encoding, most in (("fp32", 1.01), ("bf16-delta", 0.51), ("int8-delta", 0.26))
        ),
        _ratio("bf16-delta <= NVFlare's default fp32", by.get("stillroom bf16-delta"), flare, 1.0),
        _ratio("int8-delta <= 0.6x NVFlare's default", by.get("stillroom int8-delta"), flare, 0.6),
        _ratio("fp32 <= 0.5x plain Flower, resident", by.get("stillroom fp32"), flower, 0.5),
        _ratio("fp32 <= NVFlare's default (stretch)", by.get("stillroom fp32"), flare, 1.0),
        _bar("a round of a tiny model <= 1 s", _wall(tiny.get("stillroom fp32")), 1.0, " s"),
        *_simulated(found["simulation"]),
        *_soaked(found["soak"]),
        _trained(found["training"]),
        _added(found["aggregation"]),
    ]
    return [{**row, "why": WHY.get(row["name"], "")} for row in rows]


def _bar(name: str, value: float | None, most: float, unit: str) -> dict[str, Any]:
    said = "-" if value is None else f"{value:.2f}{unit}"
    return {
        "name": name,
        "value": value,
        "bar": most,
        "met": None if value is None else value <= most,
        "said": said,
    }


def _wall(row: Row | None) -> float | None:
    return None if row is None else row["wall_s"]


def _ratio(name: str, ours: Row | None, theirs: Row | None, most: float) -> dict[str, Any]:
    """Medians of rounds after the first."""
    if ours is None or theirs is None:
        return _bar(name, None, most, "x")
    bar = _bar(name, ours["wall_s"] / theirs["wall_s"], most, "x")
    return {**bar, "said": f"{bar['said']} ({ours['wall_s']:.1f} s to {theirs['wall_s']:.1f} s)"}


def _bytes(by: Mapping[str, Row], encoding: str) -> float | None:
    row = by.get(f"stillroom {encoding}")
    if row is None or row["files_up"] is None:
        return None
    return max(row["files_up"], row["files_down"])


def _flat(scale: Sequence[Row]) -> list[dict[str, Any]]:
    """The server's peak from the fewest to the most sites, by encoding."""
    found = []
    for encoding in dict.fromkeys(row["encoding"] for row in scale if "encoding" in row):
        rows = {
            row["sites"]: row["server_peak_mib"] for row in scale if row.get("encoding") == encoding
        }
        few, many = min(rows), max(rows)
        value = max(rows.values()) / min(rows.values()) - 1 if len(rows) > 1 else None
        bar = _bar(
            f"{encoding}: server peak within 10 % from {few} to {many} sites", value, 0.1, ""
        )
        found.append({**bar, "said": "-" if value is None else f"{100 * value:.1f} %"})
    return found


def _trained(training: Row) -> dict[str, Any]:
    """The one bar that is a least value: in wall time and in processor time."""
    ratio, cpu = training.get("ratio"), training.get("cpu_ratio")
    bar = _bar("training through the platform >= 97 % of the bare loop", ratio, 0.97, "")
    if ratio is None or cpu is None:
        return {**bar, "said": "-", "met": None}
    said = f"{100 * ratio:.1f} % (of processor time {100 * cpu:.1f} %)"
    return {**bar, "said": said, "met": min(ratio, cpu) >= bar["bar"]}


def _added(rows: Sequence[Row]) -> dict[str, Any]:
    """A least value too."""
    ratio = next((row["add_over_copy"] for row in rows if "add_over_copy" in row), None)
    bar = _bar("adding an update up >= half as fast as copying it", ratio, 0.5, "x")
    return {**bar, "met": None if ratio is None else ratio >= bar["bar"]}


def _simulated(rows: Sequence[Row]) -> list[dict[str, Any]]:
    costs = [row["ms_per_site_and_round"] for row in rows if "missing" not in row]
    value = max(costs) / min(costs) if len(costs) > 1 else None
    # Flat: no more than a quarter between the cheapest and the dearest.
    return [_bar("10, 50, 200 sites in one process: cost per site flat", value, 1.25, "x")]


def _soaked(soak: Row) -> list[dict[str, Any]]:
    if "rounds" not in soak:
        return [_bar("soak: memory and descriptors stay", None, 0.0, "")]
    slope = max(soak["slope"].values())
    grown = max(late - early for early, late in soak["files"].values())
    return [
        # Half a KiB a round: 10 MiB in 20 000 rounds.
        _bar(f"soak of {soak['rounds']} rounds: KiB of memory per round", slope, 0.5, " KiB"),
        _bar(f"soak of {soak['rounds']} rounds: descriptors more at the end", grown, 0, ""),
    ]
