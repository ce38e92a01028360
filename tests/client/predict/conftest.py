"""A study, networks whose answers are known, and scans on awkward grids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from stillroom.client.predict.segmentation import Options
from stillroom.client.release import Release
from stillroom.client.training.device import Device
from stillroom.common.study import Study

HEART = (100.0, 250.0)
BLOOD = 250.0
BONE = 900.0


class Threshold(nn.Module):
    """Reads Hounsfield units back: tissue is ``LV`` or ``RV`` by brightness, bone is point ``A``."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of +-40: probabilities are 0 or 1 to float precision."""
        hu = (x[:, :1] + 1) * 1000 - 1000

        def indicator(mask: Tensor) -> Tensor:
            return mask.float() * 40

        low, high = HEART
        chambers = [
            indicator(hu < low) + indicator(hu > BONE),
            indicator((hu >= low) & (hu < high)),
            indicator((hu >= BLOOD) & (hu <= BONE)),
        ]
        landmarks = [indicator(hu <= BONE), indicator(hu > BONE), torch.zeros_like(hu) - 40]
        return {"chambers": torch.cat(chambers, 1), "landmarks": torch.cat(landmarks, 1)}


def study_of(**volume: Any) -> Study:
    """A study with a mask and a points label, on a grid of 2 mm unless told otherwise."""
    return Study.parse(
        {
            "study": {"name": "predict-test"},
            "volume": {
                "spacing_mm": [2, 2, 2],
                "patch": [32, 32, 32],
                "hu_window": [-1000, 1000],
                "margin_mm": 8,
                "min_slices": 4,
            }
            | volume,
            "label": {
                "chambers": {"kind": "mask", "classes": ["LV", "RV"]},
                "landmarks": {"kind": "points", "names": ["A", "B"]},
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {"name": "teach-chambers", "recipe": "teach", "label": "chambers"},
                {"name": "student", "recipe": "distil"},
            ],
        }
    )


@pytest.fixture
def study() -> Study:
    """The study of ``Threshold``."""
    return study_of()


@pytest.fixture
def release(study: Study) -> Release:
    """A release whose network is ``Threshold``."""
    return Release(study, "0" * 64, "1" * 64, Threshold())


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """CPU, fp32."""
    return Options(Device("cpu", bf16=False, channels_last=False, reason=""), tmp_path)


@pytest.fixture
def ball_scan() -> Callable[..., sitk.Image]:
    """Scans of a bright two-part ball with a bone bead, on any grid."""
    return _ball_scan


def _ball_scan(
    size: tuple[int, int, int] = (48, 48, 48),
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    *,
    radius_mm: float = 30.0,
    centre_mm: tuple[float, float, float] = (5.0, -7.0, 11.0),
) -> sitk.Image:
    """Half below ``centre``'s x is ``LV`` (200 HU), half above ``RV`` (400 HU), a bead in the middle."""
    image = sitk.Image(list(size), sitk.sitkInt16)
    image.SetSpacing(spacing_mm)
    image.SetDirection(direction)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    image.SetOrigin([c - m for c, m in zip((0.0, 0.0, 0.0), middle, strict=True)])
    positions = positions_of(image)
    offset = positions - np.asarray(centre_mm)
    distance = np.linalg.norm(offset, axis=-1)
    hu = np.zeros(distance.shape, np.int16)
    ball = distance <= radius_mm
    hu[ball & (offset[..., 0] < 0)] = 200
    hu[ball & (offset[..., 0] >= 0)] = 400
    hu[distance <= 5] = 1000
    filled = sitk.GetImageFromArray(hu)
    filled.CopyInformation(image)
    return filled


def positions_of(image: sitk.Image) -> np.ndarray[Any, Any]:
    """(D, H, W, 3) LPS mm of every voxel centre."""
    k, j, i = np.indices(image.GetSize()[::-1])
    index = np.stack([i, j, k], -1) * np.asarray(image.GetSpacing())
    return index @ np.asarray(image.GetDirection()).reshape(3, 3).T + np.asarray(image.GetOrigin())


@pytest.fixture
def prediction_of() -> Callable[[Path], dict[str, Any]]:
    """Read ``prediction.json`` of a folder."""
    return lambda folder: json.loads((folder / "prediction.json").read_text("utf-8"))
