"""What an operator does on a workstation with torch: prepare a study, build a release.

The server's daemons never import this module; the command line does, when asked to.
"""

from pathlib import Path
from typing import Any

from stillroom.common.nn.prepare import prepare_study
from stillroom.common.nn.release import build_release, localiser_stage
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.tensorfile import read_weights


def prepare(study_file: Path, out: Path) -> PreparedStudy:
    """Freeze a study file together with the weights every stage starts from.

    Raises:
        ConfigError: STR-101 to STR-106, what is wrong with the study.
    """
    return prepare_study(Study.load(study_file), out)


def release(study_dir: Path, run_dir: Path, out: Path, *, run: dict[str, Any]) -> None:
    """Build the release of a finished run.

    Args:
        study_dir: The prepared study.
        run_dir: Records and weights of the run; holds ``weights/<sha256>.safetensors``.
        out: The release's folder.
        run: What the model card tells of the run; ``summary.json`` of a rehearsal, or
            ``result.json`` of a run.

    Raises:
        TrustError: STR-204 when the student's weights are missing or damaged.
    """
    prepared = PreparedStudy.load(study_dir)
    student = read_weights(run_dir / "weights", run["student"]["sha256"])
    coarse = localiser_stage(prepared.study)
    localiser = read_weights(run_dir / "weights", run["models"][coarse.name]) if coarse else None
    build_release(prepared, student, out, run=run, localiser_weights=localiser)
