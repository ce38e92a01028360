"""A published student, as a site uses it: every byte checked before it is believed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.numpy import load as parse
from torch import nn

from stillroom.common.canonical import digest, file_digest
from stillroom.common.errors import StillroomError, TrustError
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.release import FORMAT
from stillroom.common.nn.student import build_student
from stillroom.common.nn.weights import load
from stillroom.common.study import PreparedStudy, Stage, Study


@dataclass(frozen=True, slots=True)
class Localiser:
    """A teacher that finds the heart on a coarse grid.

    Attributes:
        network: In evaluation mode; forward gives ``{label: logits}``.
        label: What it segments.
        stage: The stage that trained it.
    """

    network: nn.Module
    label: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class Release:
    """A checked release.

    Attributes:
        study: What it was trained for.
        study_digest: Digest of the prepared study.
        sha256: Digest of ``release.json``: the name of this release.
        network: The student in evaluation mode, on the CPU.
        localiser: The study's localiser, when the release has one.
    """

    study: Study
    study_digest: str
    sha256: str
    network: nn.Module
    localiser: Localiser | None = None

    @classmethod
    def load(cls, folder: Path) -> "Release":
        """Read ``folder`` as ``build_release`` wrote it.

        Raises:
            TrustError: STR-204, a file is missing, damaged, or has another digest than
                ``release.json`` says.
        """
        about, prepared = _described(folder)
        files = about["files"]
        study = prepared.study
        try:
            network = build_student(study)
            load(network, _tensors(folder, "model.safetensors", files))
            localiser = _localiser(folder, study, about)
        except (ValueError, KeyError) as error:
            raise _damaged("The weights do not fit the study of this release.") from error
        return cls(study, prepared.digest, digest(about), network.eval(), localiser)


def _described(folder: Path) -> tuple[dict[str, Any], PreparedStudy]:
    """``release.json`` and the study it names, after checking that digest."""
    try:
        about = json.loads((folder / "release.json").read_text("utf-8"))
        prepared = PreparedStudy.model_validate_json((folder / "study.json").read_bytes())
        stated, known = about["study_digest"], about["format"] == FORMAT
        if not isinstance(about["files"], dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise _damaged("The folder holds no readable release.") from error
    if not known:
        raise _damaged("The release has a format that this version does not know.")
    if prepared.digest != stated:
        raise _damaged("The study file of the release has another digest than it should have.")
    return about, prepared


def _tensors(folder: Path, name: str, files: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / name
    if not path.is_file() or file_digest(path) != files.get(name):
        raise _damaged(f"{name} of the release is missing or has another digest than it should.")
    return dict(parse(path.read_bytes()))


def _localiser(folder: Path, study: Study, about: Mapping[str, Any]) -> Localiser | None:
    name = about.get("localiser")
    if name is None:
        return None
    stage = study.stage_named(name)
    label = stage.label or ""
    network = module_of(study, stage)
    load(network, _tensors(folder, "localiser.safetensors", about["files"]))
    return Localiser(network.eval(), label, stage)


def _damaged(what: str) -> StillroomError:
    return TrustError(
        what, fix="Fetch the release again from your consortium; do not use it.", code="STR-204"
    )
