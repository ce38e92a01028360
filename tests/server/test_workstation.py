"""What an operator is told of a study before it is signed."""

import pytest

from stillroom.common.accounting import epsilons
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.server.workstation import exchange_of

pytest.importorskip("torch")


def test_every_option_of_a_stage_is_shown() -> None:
    """Encoding and size, every step of aggregation, and what privacy has spent in the end."""
    privacy = {"clip_norm": 1.0, "noise_multiplier": 8.0, "delta": 1e-6}
    study = Study.parse(
        {
            "study": {"name": "shown", "quorum": {"min_sites": 5}},
            "volume": {"spacing_mm": [1, 1, 1], "patch": [16, 16, 16]},
            "label": {"ball": {"kind": "mask", "classes": ["ball"]}},
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {
                    "name": "teach",
                    "recipe": "teach",
                    "label": "ball",
                    "aggregation": {
                        "method": "trimmed-mean",
                        "clip_norm": 3.0,
                        "server": "fedyogi",
                    },
                },
                {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
                {
                    "name": "student",
                    "recipe": "distil",
                    "rounds": 4,
                    "privacy": privacy,
                    "exchange": {"encoding": "int8-delta"},
                },
            ],
        }
    )
    spec = TensorSpec(name="w", shape=(1000, 500), dtype="float32", group="trunk")
    spent = epsilons(8.0, 1e-6, rounds=4)
    bare = PreparedStage(initial_sha256="0" * 64, manifest=Manifest(tensors=(spec,)))
    noised = bare.model_copy(update={"epsilon": spent})
    prepared = PreparedStudy(study=study, stages={"teach": bare, "student": noised})

    teach, label, student = (exchange_of(prepared, stage) for stage in study.stage)

    assert teach == ("trunk", "2.00 MB, fp32", "trimmed-mean 0.2, clipped to 3, fedyogi", "none")
    assert label == ("counts only", "< 1 kB", "", "")
    assert student[1:3] == ("0.50 MB, int8-delta", "mean")
    assert student[3] == f"epsilon {spent[-1]:.4g} at delta 1e-06"
