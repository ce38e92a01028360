"""The model card of a release, generated from what the run recorded. Pure: values in, Markdown out.

Written for a hospital's radiologist and its IT: what the model is for, what it is not for, how well
it did and where, and which digests prove it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from stillroom.common.study import PreparedStudy

PHANTOM = (
    "Procedurally generated phantoms: drawings of hearts computed by a program. No patient was involved, "
    "and nothing here says how well the model does on patients."
)
UNSTATED = (
    "Scans of the sites below. They stayed there; the run's record says nothing more about them. "
    "Ask the sites about patients, scanners and protocols before you rely on the numbers."
)


def model_card(prepared: PreparedStudy, run: Mapping[str, Any], *, model_sha256: str) -> str:
    """Markdown.

    Args:
        prepared: The study.
        run: As in a rehearsal's ``summary.json``; missing parts are said to be missing.
        model_sha256: Digest of the weights.
    """
    sections = (
        _what(prepared),
        _use(prepared),
        _data(run),
        _sites(run),
        _results(prepared, run),
        _limits(prepared, run),
        _provenance(prepared, run, model_sha256),
    )
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _what(prepared: PreparedStudy) -> list[str]:
    study = prepared.study
    volume = study.volume
    spacing = " x ".join(f"{value:g}" for value in volume.spacing_mm)
    lines = [
        f"# {study.study.name}: model card",
        "",
        "> **Not a medical device.** For research only. Not for diagnosis, treatment or triage.",
        "",
        "## What it is",
        "",
        "A neural network that reads a cardiac CT scan and marks the structures listed here. Several",
        "hospitals trained it together. Their scans stayed with them; only network weights were exchanged.",
        "Each hospital's own network labelled the scans that nobody had labelled, and one shared network",
        "(the student) learned from all of these labels.",
        "",
        "| label type | kind | what is marked |",
        "|---|---|---|",
    ]
    for name, label in study.student_labels().items():
        kind = "points" if label.kind == "points" else "mask"
        lines.append(f"| {name} | {kind} | {', '.join(label.classes)} |")
    model = study.model["student"]
    size = (
        f"feature size {model.feature_size}"
        if model.channels is None
        else (f"channels {list(model.channels)}")
    )
    low, high = volume.hu_window
    return [
        *lines,
        "",
        f"Network: {model.arch}, {size}.",
        f"It works on a grid of {spacing} mm and sees {' x '.join(map(str, volume.patch))} voxels at a time,",
        f"between {low:g} and {high:g} Hounsfield units.",
    ]


def _use(prepared: PreparedStudy) -> list[str]:
    return [
        "## Intended use",
        "",
        "Research on contrast-enhanced cardiac CT of adults, by people who check every",
        "result against the scan.",
        "",
        "```",
        "stillroom-client predict SCAN --release THIS_FOLDER --out RESULT",
        "```",
        "",
        "## Not intended",
        "",
        "- Any decision about a patient.",
        "- Scans without contrast medium, of children, after heart surgery or with implants: not studied.",
        "- Other body regions. The network may mark a heart where there is none; `prediction.json` warns,",
        "  but a warning is no guarantee.",
        f"- Structures finer than the working grid of {max(prepared.study.volume.spacing_mm):g} mm.",
    ]


def _data(run: Mapping[str, Any]) -> list[str]:
    stated = str(run.get("data") or "")
    text = PHANTOM if stated == "phantom" else stated or UNSTATED
    return ["## Data", "", text]


def _sites(run: Mapping[str, Any]) -> list[str]:
    lines = ["## Who took part", ""]
    if run.get("complete_participation") is False:
        lines += [
            "**This model is a result from a subset:** not everybody who was expected took part in",
            "everything. The run's notes and the consortium's log say who, when and why.",
            "",
        ]
    sites = list(run.get("sites", ()))
    if not sites:
        return [*lines, "The run's record names no site."]
    lines += ["| site | part | certificate (SHA-256) |", "|---|---|---|"]
    for site in sites:
        part = "held out: tested only" if site.get("role") == "held_out" else "trained"
        lines.append(
            f"| {site['name']} | {part} | `{site.get('certificate_sha256') or 'not recorded'}` |"
        )
    lines += ["", "| stage | recipe | rounds | sites per round | time |", "|---|---|---|---|---|"]
    for stage in run.get("stages", ()):
        rounds = list(stage.get("rounds", ()))
        counts = sorted({_count(entry.get("sites", 0)) for entry in rounds})
        seconds = sum(float(entry.get("seconds") or 0) for entry in rounds)
        span = "-" if not counts else "-".join(str(c) for c in sorted({counts[0], counts[-1]}))
        lines.append(
            f"| {stage['name']} | {stage['recipe']} | {len(rounds)} | {span} | {seconds:.0f} s |"
        )
    return lines


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | dict) else int(value or 0)


def _results(prepared: PreparedStudy, run: Mapping[str, Any]) -> list[str]:
    metrics: Mapping[str, Any] = run.get("metrics", {})
    lines = ["## Results", ""]
    if not metrics:
        return [*lines, "Not measured: the run's record holds no metrics."]
    lines += [
        "Per site and label type. *Found*: share of structures that were found (a mask counts when its Dice",
        "reaches the study's minimum; a point when it is close enough). A missed structure counts as a",
        "failure; it is never left out. Dice: overlap with the site's own labels, from 0 to 1. Error: median",
        "distance.",
        "",
    ]
    roles = {site["name"]: site.get("role") for site in run.get("sites", ())}
    for label, known in prepared.study.student_labels().items():
        lines += [
            f"### {label}",
            "",
            "| site | cases | found | "
            + ("median error |" if known.kind == "points" else "mean Dice |"),
            "|---|---|---|---|",
        ]
        for site, found in metrics.items():
            if label in found:
                who = f"{site} (held out)" if roles.get(site) == "held_out" else site
                lines.append(_row(who, found[label], known.kind))
        lines += ["", *_classes(label, metrics, known.classes, known.kind), ""]
    return lines[:-1]


def _row(who: str, scores: Mapping[str, Any], kind: str) -> str:
    value = scores.get("median_error_mm" if kind == "points" else "mean_dice")
    shown = _number(value, " mm" if kind == "points" else "", 1 if kind == "points" else 3)
    return (
        f"| {who} | {scores.get('cases', 0)} | {_percent(scores.get('detection_rate'))} | {shown} |"
    )


def _classes(
    label: str, metrics: Mapping[str, Any], classes: Iterable[str], kind: str
) -> list[str]:
    """Per class at the site (or pool) named last, which is the pooled or held-out one."""
    candidates = ("pooled", *reversed(list(metrics)))
    site = next((name for name in candidates if label in metrics.get(name, {})), None)
    if site is None:
        return ["No site measured this label type."]
    scores = metrics[site][label].get("classes", {})
    key, unit, digits = ("error_mm", " mm", 1) if kind == "points" else ("dice", "", 3)
    parts = [f"{name} {_number(scores.get(name, {}).get(key), unit, digits)}" for name in classes]
    return [f"By structure ({site}): {', '.join(parts)}."]


def _number(value: Any, unit: str, digits: int) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "none found" if unit else "not measured"
    return f"{value:.{digits}f}{unit}"


def _percent(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "not measured"


def _limits(prepared: PreparedStudy, run: Mapping[str, Any]) -> list[str]:
    held_out = [site["name"] for site in run.get("sites", ()) if site.get("role") == "held_out"]
    lines = ["## Limits", ""]
    names = ", ".join(held_out)
    lines.append(
        f"- Tested at {len(held_out)} site(s) that did not train ({names}). Yours is another one."
        if held_out
        else "- Never tested at a site that did not take part in training: expect worse results at yours."
    )
    spacing_mm = max(prepared.study.volume.spacing_mm)
    return [
        *lines,
        "- Most training labels were made by other networks, which pass on their mistakes.",
        "- Label types were owned by different sites; their results mix label type and site.",
        "- Weights can carry traces of training data. No differential privacy was applied.",
        f"- Boundaries are no finer than about one voxel of the working grid ({spacing_mm:g} mm).",
    ]


def _provenance(prepared: PreparedStudy, run: Mapping[str, Any], model_sha256: str) -> list[str]:
    lines = [
        "## Provenance",
        "",
        "| | SHA-256 |",
        "|---|---|",
        f"| study that every site accepted | `{prepared.digest}` |",
        f"| weights (`model.safetensors`) | `{model_sha256}` |",
    ]
    for name, stage in prepared.stages.items():
        lines.append(f"| initial weights of stage {name} | `{stage.initial_sha256}` |")
    tls = run.get("tls_version")
    return [
        *lines,
        "",
        f"Connections: {tls}, with a certificate on both sides."
        if tls
        else "The run's record names no TLS version.",
        "`release.json` lists the digest of every file; `stillroom-client predict` checks those it uses.",
        "",
        "## Licence",
        "",
        "Weights, bundle and this card: Apache-2.0.",
    ]
