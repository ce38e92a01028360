"""What an operator does on a workstation with torch: prepare a study, build a release.

The server's daemons never import this module; the command line does, when asked to.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillroom.common.encoding import most_bytes
from stillroom.common.errors import ConfigError
from stillroom.common.memorisation import MemorisationReport
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.nn.release import build_release, localiser_stage
from stillroom.common.study import PreparedStudy, Stage, Study
from stillroom.common.tensorfile import read_weights


def prepare(study_file: Path, out: Path) -> PreparedStudy:
    """Freeze a study file together with the weights every stage starts from.

    Raises:
        ConfigError: STR-101 to STR-106, what is wrong with the study.
    """
    return prepare_study(Study.load(study_file), out)


COLUMNS = ("exchanged groups", "most per site and round", "aggregation", "privacy")
"""What ``exchange_of`` says of a stage."""


def exchange_of(prepared: PreparedStudy, stage: Stage) -> tuple[str, ...]:
    """What a stage exchanges and what is made of it, in words, one for each of ``COLUMNS``."""
    if stage.name not in prepared.stages:
        return ("counts only", "< 1 kB", "", "")
    ready, rule = prepared.stages[stage.name], stage.aggregation
    encoding, privacy = stage.exchange.encoding, "none"
    size = most_bytes(encoding, ready.manifest)
    method = f"trimmed-mean {rule.trim:g}" if rule.method == "trimmed-mean" else rule.method
    clipped = f"clipped to {rule.clip_norm:g}" if rule.clip_norm is not None else ""
    server = rule.server if rule.server != "fedavg" else ""
    average = "" if rule.average is None else f"moving average {rule.average:g}"
    if stage.privacy is not None and ready.epsilon is not None:
        privacy = f"epsilon {ready.epsilon[-1]:.4g} at delta {stage.privacy.delta:g}"
    return (
        ", ".join(ready.manifest.groups),
        f"{_in_words(size)}, {encoding}",
        ", ".join(part for part in (method, clipped, server, average) if part),
        privacy,
    )


def _in_words(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def release(
    study_dir: Path,
    run_dir: Path,
    out: Path,
    *,
    run: dict[str, Any],
    denoisers: Sequence[str] = (),
    reports: Sequence[Path] = (),
) -> None:
    """Build the release of a finished run.

    Args:
        study_dir: The prepared study.
        run_dir: Records and weights of the run; holds ``weights/<sha256>.safetensors``.
        out: The release's folder.
        run: What the model card tells of the run; ``summary.json`` of a rehearsal, or
            ``result.json`` of a run.
        denoisers: Stages whose generative models are released too.
        reports: Files of the sites' memorisation reports.

    Raises:
        ConfigError: STR-103, the study has no student.
        TrustError: STR-204 when the student's weights are missing or damaged.
    """
    prepared = PreparedStudy.load(study_dir)
    if run["student"]["sha256"] is None:
        raise ConfigError(
            "This study has no stage that leaves a student, so there is nothing to release.",
            fix="Add a distil stage, or use the models of its stages as they are.",
            code="STR-103",
        )
    student = read_weights(run_dir / "weights", run["student"]["sha256"])
    coarse = localiser_stage(prepared.study)
    localiser = read_weights(run_dir / "weights", run["models"][coarse.name]) if coarse else None
    build_release(
        prepared,
        student,
        out,
        run=run,
        localiser_weights=localiser,
        denoisers={n: read_weights(run_dir / "weights", run["models"][n]) for n in denoisers},
        reports=[MemorisationReport.load(path) for path in reports],
    )
