"""What rounding on the wire costs: the demo's study, once per encoding, on the same patients.

Every stage uses the encoding, both ways, for teachers and student. The seeds are the demo's, so all
runs see the same patients in the same order and differ in rounding alone. The page gives every
figure of every run; one run per encoding and seed says nothing about how they would scatter.

    python -P tests/science/encodings.py [--encoding int8-delta] [--seed 0]
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from stillroom.common.messages import ENCODINGS
from stillroom.common.study import Study
from stillroom.deploy.rehearsal import Plan, rehearse

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deploy" / "stillroom" / "deploy" / "studies" / "demo.toml"
PAGE = ROOT / "docs" / "reference" / "encodings.md"


def study_with(encoding: str) -> Study:
    """The demo's study, every stage in one encoding."""
    value = Study.load(DEMO).model_dump(mode="json", exclude_defaults=True)
    for stage in value["stage"]:
        if stage["recipe"] in {"teach", "distil"}:
            stage["exchange"] = {"encoding": encoding}
    return Study.parse(value)


def run(encoding: str, seed: int, folder: Path) -> dict[str, Any]:
    """One rehearsal in one process; its pooled figures at the held-out site and bytes per round."""
    out = folder / f"{encoding}-{seed}"
    plan = Plan(out, study_with(encoding), seed=seed, in_process=True)
    result = rehearse(plan, lambda _: None, progress=lambda *_: None).result
    student = next(s for s in reversed(result["stages"]) if s["recipe"] == "distil")
    last = student["rounds"][-1]
    row = {
        "encoding": encoding,
        "seed": seed,
        "student_sha256": result["student"]["sha256"],
        "loss": _mean(site["metrics"].get("train.loss") for site in last["sites"].values()),
        "bytes_up": max(site["bytes_up"] for site in last["sites"].values()),
        "bytes_down": max(site["bytes_down"] for site in last["sites"].values()),
        "pooled": {
            label: {k: v for k, v in table.items() if k != "classes"}
            for label, table in result["metrics"]["pooled"].items()
        },
    }
    shutil.rmtree(out)
    return row


def _mean(values: Any) -> float:
    found = [value for value in values if value is not None]
    return sum(found) / len(found)


def page(rows: list[dict[str, Any]]) -> str:
    """The rows as a page."""
    lines = [
        "# What the encodings cost",
        "",
        "Written by `make science ENCODINGS=1`, from one run on one machine. The demo's study, every",
        "stage in one encoding both ways, the same patients and seeds. Scores are of the student at the",
        "held-out site: 8 phantoms of a scanner nobody trained on. Bytes are of the student's last",
        "round, one site. With one run per seed, differences of a few hundredths are not to be told",
        "from chance.",
        "",
    ]
    labels = list(rows[0]["pooled"])
    heads = [f"{label}: {what}" for label in labels for what in ("detected", "Dice or mm")]
    lines += [
        "| encoding | seed | kB up | kB down | last loss | " + " | ".join(heads) + " |",
        "|---" * (5 + len(heads)) + "|",
    ]
    for row in rows:
        cells = []
        for label in labels:
            table = row["pooled"][label]
            value = table.get("mean_dice", table.get("median_error_mm"))
            cells += [f"{table['detection_rate']:.0%}", "-" if value is None else f"{value:.3f}"]
        lines.append(
            f"| {row['encoding']} | {row['seed']} | {row['bytes_up'] / 1e3:.0f} | "
            f"{row['bytes_down'] / 1e3:.0f} | {row['loss']:.4f} | " + " | ".join(cells) + " |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Run what is asked for; the page is written when all encodings were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoding", action="append", choices=ENCODINGS)
    parser.add_argument("--seed", action="append", type=int)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seed or [0]:
            for encoding in options.encoding or ENCODINGS:
                rows.append(run(encoding, seed, Path(folder)))
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
    if options.encoding is None:
        PAGE.write_text(page(rows), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
