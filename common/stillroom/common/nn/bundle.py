"""The student as a MONAI Bundle, for people who already run those.

The bundle's network, its reader and its writer come from an installed ``stillroom[client]``; windows
and configuration are MONAI's own. It looks at the whole scan at overlap 0.5 in fp32: the plain way, and what
``stillroom-client predict`` is measured against.

Format: MONAI Bundle Specification (docs.monai.io, ``mb_specification``).
"""

import io
import json
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import nn

from stillroom.common.nn.student import Student, build_student
from stillroom.common.study import Study
from stillroom.common.tensorfile import write_durably

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
VERSION = "1.0.0"
NOT_A_DEVICE = "Research only. Not a medical device; not for diagnosis or treatment."


def student_of(study: dict[str, Any]) -> Student:
    """The network of a study given as plain values: the ``network_def`` of a bundle.

    Raises:
        ConfigError: As ``Study.parse``.
    """
    return build_student(Study.parse(study))


def write_bundle(
    study: Study, network: nn.Module, out: Path, *, card: str, study_digest: str
) -> None:
    """Write ``configs/``, ``models/`` and ``docs/`` into ``out``.

    Args:
        study: The study of ``network``.
        network: The student with its final weights.
        out: Folder of the bundle.
        card: The model card, which becomes the bundle's README.
        study_digest: Named in the metadata.
    """
    for part in ("configs", "models", "docs"):
        (out / part).mkdir(parents=True, exist_ok=True)
    _write_json(out / "configs" / "metadata.json", metadata(study, study_digest))
    _write_json(out / "configs" / "inference.json", inference(study))
    # Through memory: torch would put the file's own name into the archive.
    stream = io.BytesIO()
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, stream)
    write_durably(out / "models" / "model.pt", stream.getvalue())
    write_durably(out / "docs" / "README.md", card.encode())


def metadata(study: Study, study_digest: str) -> dict[str, Any]:
    """``metadata.json``: names, versions, and what goes in and comes out."""
    names = ", ".join(study.student_labels())
    depth_first = list(study.volume.patch[::-1])
    outputs = {
        name: {
            "type": "probabilities" if label.kind == "points" else "segmentation",
            "format": "segmentation",
            "num_channels": 1 + len(label.classes),
            "spatial_shape": depth_first,
            "dtype": "float32",
            "value_range": [],
            "is_patch_data": True,
            "channel_def": {str(i): c for i, c in enumerate(("background", *label.classes))},
        }
        for name, label in study.student_labels().items()
    }
    channels = {"0": "computed tomography"}
    if study.volume.condition_on is not None:
        channels["1"] = f"label map: {study.volume.condition_on}"
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": study.input_channels,
        "spatial_shape": depth_first,
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": True,
        "channel_def": channels,
    }
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"Student of study {study_digest}."},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"stillroom": "0.1.0"},
        "name": study.study.name,
        "task": f"Cardiac CT: {names}",
        "description": f"Transformer student distilled across hospitals; finds {names} in cardiac CT.",
        "authors": f"The consortium of study {study.study.name}",
        "copyright": "The consortium; released under Apache-2.0",
        "data_source": "Scans that never left the hospitals of the study; see docs/README.md.",
        "data_type": "dicom",
        "intended_use": NOT_A_DEVICE,
        "eval_metrics": {},
        "references": ["https://arxiv.org/abs/2407.07557"],
        "network_data_format": {"inputs": {"image": image}, "outputs": outputs},
    }


def inference(study: Study) -> dict[str, Any]:
    """``inference.json``: ``python -m monai.bundle run --config_file ... --image scan.nii.gz``."""
    low, high = study.volume.hu_window
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "image": "",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "stillroom.common.nn.bundle.student_of",
            "study": study.model_dump(mode="json"),
        },
        "network": "$@network_def.to(@device).eval()",
        "weights": "$@bundle_root + '/models/model.pt'",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "stillroom.client.predict.monai_io.LoadScan",
                    "spacing_mm": list(study.volume.spacing_mm),
                    "min_slices": study.volume.min_slices,
                },
                {
                    "_target_": "ScaleIntensityRange",
                    "a_min": low,
                    "a_max": high,
                    "b_min": -1.0,
                    "b_max": 1.0,
                    "clip": True,
                },
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(study.volume.patch[::-1]),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
            "padding_mode": "constant",
            "cval": -1.0,
        },
        "predictor": {
            "_target_": "stillroom.client.predict.monai_io.Predictor",
            "preprocessing": "@preprocessing",
            "inferer": "@inferer",
            "network": "@network",
            "device": "@device",
            "min_slices": study.volume.min_slices,
        },
        # Weights are loaded here and not under "initialize": MONAI's own ``load`` initialises a
        # bundle from wherever it is called and then brings the weights itself.
        "run": [
            "$@network.load_state_dict(torch.load(@weights, map_location=@device, weights_only=True))",
            "$@predictor(@image, @output_dir)",
        ],
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode())
