"""``release build``: the published student as a folder that proves itself.

::

    release.json           what this is, and the SHA-256 of every other file
    model.safetensors      the student's weights, as exchanged
    localiser.safetensors  when the study has a localiser and its weights were given
    <stage>.safetensors    a generative model, when every training site found that it repeats no scan
    study.json             the prepared study, the one every site consented to
    model_card.md          for the people who decide whether to use it
    bundle/                a MONAI Bundle

Equal inputs and equal versions of torch and MONAI give equal bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import save as serialise

from stillroom.common.canonical import canonical_bytes, file_digest
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.manifest import Weights
from stillroom.common.memorisation import MemorisationReport, check_generative, refused
from stillroom.common.nn.bundle import write_bundle
from stillroom.common.nn.model_card import model_card
from stillroom.common.nn.student import build_student
from stillroom.common.nn.weights import load
from stillroom.common.study import PreparedStudy, Stage, Study
from stillroom.common.tensorfile import write_durably

FORMAT = "stillroom-release-1"


def build_release(
    prepared: PreparedStudy,
    student_weights: Weights,
    out: Path,
    *,
    run: Mapping[str, Any],
    localiser_weights: Weights | None = None,
    denoisers: Mapping[str, Weights] = MappingProxyType({}),
    reports: Sequence[MemorisationReport] = (),
) -> None:
    """Write a release into ``out``, which must be absent or empty.

    Args:
        prepared: The study, with its initial weights' digests.
        student_weights: Final weights of the student, by manifest name.
        out: Folder of the release.
        run: What happened, as in a rehearsal's ``summary.json``: ``study_digest``, ``sites``,
            ``stages``, ``metrics``. Optional: ``data`` (one sentence on the scans used),
            ``contact``.
        localiser_weights: Final weights of the teacher that the study's ``localise`` stage uses.
        denoisers: Stage -> final weights of a generative model that is released too.
        reports: What the sites found of these; every training site has to vouch for each.

    Raises:
        ConfigError: ``out`` holds something (STR-107).
        TrustError: ``run`` is of another study, or the weights do not fit it (STR-204); a generative
            model comes without the reports it needs (STR-224). Nothing is written then.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            "The folder for the release is not empty.",
            fix="Name a new folder, or empty this one.",
            code="STR-107",
        )
    if run.get("study_digest", prepared.digest) != prepared.digest:
        raise TrustError(
            "The run's summary names another study than the prepared one.",
            fix="Give the summary, the weights and the study of the same run.",
            code="STR-204",
        )
    network = build_student(prepared.study)
    try:
        load(network, student_weights)
    except ValueError as error:
        raise TrustError(
            "The student's weights do not fit the study.",
            fix="Give the weights that this study's last distil stage produced.",
            code="STR-204",
        ) from error
    _check_generative(prepared, run, localiser_weights, denoisers, reports)
    out.mkdir(parents=True, exist_ok=True)
    _write_tensors(out / "model.safetensors", student_weights)
    for name, weights in denoisers.items():
        _write_tensors(out / f"{name}.safetensors", weights)
    localiser = localiser_stage(prepared.study)
    if localiser_weights is not None and localiser is not None:
        _write_tensors(out / "localiser.safetensors", localiser_weights)
    write_durably(out / "study.json", canonical_bytes(prepared.model_dump(mode="json")))
    model_sha256 = file_digest(out / "model.safetensors")
    card = model_card(prepared, run, model_sha256=model_sha256)
    write_durably(out / "model_card.md", card.encode())
    write_bundle(prepared.study, network, out / "bundle", card=card, study_digest=prepared.digest)
    about = _about(prepared, run, model_sha256=model_sha256, files=_digests(out))
    about["localiser"] = (
        localiser.name if localiser is not None and localiser_weights is not None else None
    )
    # Last: a folder that has release.json has everything it names.
    write_durably(out / "release.json", (json.dumps(about, indent=2) + "\n").encode())


def localiser_stage(study: Study) -> Stage | None:
    """The ``teach`` stage whose model finds the heart in this study; None without one."""
    for stage in study.stage:
        if stage.recipe == "localise":
            return study.stage_named(stage.teachers[0])
    return None


def _check_generative(
    prepared: PreparedStudy,
    run: Mapping[str, Any],
    localiser_weights: Weights | None,
    denoisers: Mapping[str, Weights],
    reports: Sequence[MemorisationReport],
) -> None:
    """No generative model leaves without every training site's report, under whatever name."""
    generative = {
        stage.name: prepared.stages[stage.name].manifest
        for stage in prepared.study.stage
        if stage.declared.produces == "denoiser" and stage.name in prepared.stages
    }
    for manifest in generative.values():
        names = {spec.name for spec in manifest.tensors}
        if localiser_weights is not None and names == localiser_weights.keys():
            raise refused("it was given as the localiser")
    for name, weights in denoisers.items():
        if name not in generative or generative[name].layout.keys() != weights.keys():
            raise TrustError(
                f"The study's stage {name} left no such generative model.",
                fix="Give the weights that the stage left.",
                code="STR-204",
            )
        sha256 = hashlib.sha256(_serialised(weights)).hexdigest()
        check_generative(
            name, sha256, study=prepared.digest, reports=reports, sites=run.get("sites", ())
        )


def _about(
    prepared: PreparedStudy, run: Mapping[str, Any], *, model_sha256: str, files: dict[str, str]
) -> dict[str, Any]:
    """``release.json``: enough for a reader without our code to know what the outputs mean."""
    study = prepared.study
    return {
        "format": FORMAT,
        "study": study.study.name,
        "study_digest": prepared.digest,
        "model_sha256": model_sha256,
        "run_sha256": hashlib.sha256(canonical_bytes(dict(run))).hexdigest(),
        "labels": {
            name: {"kind": label.kind, "classes": list(label.classes)}
            for name, label in study.student_labels().items()
        },
        "spacing_mm": list(study.volume.spacing_mm),
        "hu_window": list(study.volume.hu_window),
        "patch": list(study.volume.patch),
        "trained_by": [
            {"name": site["name"], "certificate_sha256": site.get("certificate_sha256")}
            for site in run.get("sites", ())
            if site.get("role") != "held_out"
        ],
        "files": files,
    }


def _digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file written so far, by relative path."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): file_digest(path) for path in paths}


def _write_tensors(path: Path, weights: Weights) -> None:
    write_durably(path, _serialised(weights))


def _serialised(weights: Weights) -> bytes:
    return serialise({name: np.ascontiguousarray(weights[name]) for name in sorted(weights)})
