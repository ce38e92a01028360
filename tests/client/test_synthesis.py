"""Sampling stays at the site, and a model that repeats scans is found out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.synthesis import compare, frechet, nearest, sample, share_of_copies
from stillroom.client.synthesis_report import Drawing, synthesise_at
from stillroom.client.training.device import Device
from stillroom.common.errors import ConfigError, DataError, TrustError
from stillroom.common.memorisation import MemorisationReport, check_generative
from stillroom.common.nn.denoiser import Denoiser
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.nn.weights import initial
from stillroom.common.study import PreparedStudy, Study

CPU = Device("cpu", bf16=False, channels_last=False, reason="a test")
SIDE = 16


@pytest.fixture(scope="module")
def study() -> Study:
    """A denoiser, and a teacher to look through."""
    return Study.parse(
        {
            "study": {"name": "dreams", "validation_fraction": 0.3},
            "volume": {
                "spacing_mm": [2, 2, 2],
                "patch": [SIDE, SIDE, 16],
                "hu_window": [-200, 400],
            },
            "label": {"ball": {"kind": "mask", "classes": ["ball"]}},
            "model": {
                "denoiser": {"arch": "diffusion-unet", "channels": [8, 8]},
                "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
            },
            "stage": [
                {"name": "dream", "recipe": "pretrain_diffusion"},
                {"name": "teach", "recipe": "teach", "label": "ball"},
            ],
        }
    )


@pytest.fixture(scope="module")
def prepared(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedStudy, Path]:
    """Frozen, with its initial weights as models, and where they are."""
    folder = tmp_path_factory.mktemp("study")
    return prepare_study(study, folder), folder / "weights"


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """Four labelled cases of noise."""
    made, rng = CaseStore(tmp_path / "store"), np.random.default_rng(1)
    shape = (SIDE,) * 3
    for number in range(4):
        info = CaseInfo(
            id=f"case{number}",
            shape=shape,
            spacing_mm=(2.0, 2.0, 2.0),
            origin_mm=(0.0, 0.0, 0.0),
            masks=("ball",),
            points={},
        )
        image = rng.normal(0, 80, shape).astype(np.int16)
        made.write_case(info, image, {"ball": (image > 100).astype(np.uint8)})
    return made


def slices(count: int, seed: int) -> torch.Tensor:
    """Random slices, none like another."""
    return torch.rand((count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Pooled(torch.nn.Module):
    """An encoder whose deepest map is coarse: enough to compare with."""

    def features(self, x: torch.Tensor) -> Any:
        """Sixteen numbers a slice."""
        coarse = torch.nn.functional.adaptive_avg_pool3d(x, (1, 4, 4)).flatten(1)

        class Maps:
            bottleneck = coarse[:, :, None, None, None]

        return Maps


def found(samples: torch.Tensor) -> Any:
    """Findings on ``samples`` against 60 training and 40 held-out slices."""
    return compare(
        samples,
        [slices(40, 1), slices(20, 2)],
        [slices(40, 3)],
        encoder=Pooled(),
        depth=1,
        device=CPU,
    )


def test_copied_slices_are_found() -> None:
    """New slices pass; copies fail by voxels and features; half of them copied is told as half."""
    fresh = found(slices(200, 4))
    copied = found(slices(40, 1))
    half = found(torch.cat([slices(20, 2), slices(20, 5)]))

    assert (fresh.training, fresh.held_out) == (60, 40)
    assert max(fresh.copies_by_voxels, fresh.copies_by_features) <= 0.15
    assert copied.copies_by_voxels == copied.copies_by_features == 1.0
    assert half.copies_by_voxels == pytest.approx(0.5, abs=0.1)


def test_nearest_is_exact_for_copies() -> None:
    """Zero for a copy, whatever came in which block; known for a known shift."""
    some = slices(4, 1)
    assert nearest(some, [slices(9, 2), some.flip(0)]).tolist() == [0.0] * 4
    assert nearest(some, [some + 0.5]) == pytest.approx([0.5] * 4, abs=0.05)
    assert share_of_copies(np.array([0.0, 2.0]), np.array([1.0, 3.0])) == 0.5


def test_frechet_distance_has_its_closed_form() -> None:
    """Nothing between equal sets, the squared shift between shifted ones, means and spreads on one axis."""
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(1)).double()
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-6)
    assert frechet(x, x + 2) == pytest.approx(24.0, rel=1e-6)
    one, other = x[:, :1], 3 * x[:, :1] + 1
    shift, spread = (one.mean() - other.mean()) ** 2, (one.std() - other.std()) ** 2
    assert frechet(one, other) == pytest.approx(float(shift + spread), rel=1e-6)


def test_sampling_repeats(study: Study) -> None:
    """Equal seeds give equal slices; a network that predicts no noise gives its start, scaled and cut."""
    module = initial(lambda: Denoiser((8, 8)), 1)
    assert isinstance(module, Denoiser)
    first, again, other = (
        sample(module, 3, study.volume, steps=4, seed=seed, device=CPU) for seed in (1, 1, 2)
    )
    assert first.shape == (3, 1, SIDE, SIDE)
    assert first.abs().max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_site_looks_for_itself(
    prepared: tuple[PreparedStudy, Path], store: CaseStore, tmp_path: Path
) -> None:
    """Slices only beside a report that passed, all below the site's folder; too few samples never pass."""
    ready, weights = prepared
    dream, teach = (
        (name, weights / f"{ready.stages[name].initial_sha256}.safetensors")
        for name in ("dream", "teach")
    )
    options: dict[str, Any] = {
        "site": "ashford",
        "drawing": Drawing(8, 3),
        "out": tmp_path / "out",
        "device": "cpu",
    }

    made = synthesise_at(store, ready, denoiser=dream, encoder=teach, **options)

    assert not made.report.passed
    assert MemorisationReport.load(made.path) == made.report
    assert [p.name for p in made.path.parent.iterdir()] == [made.path.name]
    assert (made.report.training_slices, made.report.held_out_slices) == (48, 16)
    with pytest.raises(ConfigError):
        synthesise_at(store, ready, denoiser=teach, encoder=teach, **options)
    with pytest.raises(DataError):
        synthesise_at(CaseStore(tmp_path / "no"), ready, denoiser=dream, encoder=teach, **options)


def report(**changes: Any) -> MemorisationReport:
    """One that passes."""
    values: dict[str, Any] = {
        "study": "a" * 64,
        "stage": "dream",
        "model_sha256": "b" * 64,
        "encoder_sha256": "c" * 64,
        "site": "ashford",
        "samples": 64,
        "steps": 50,
        "training_slices": 100,
        "held_out_slices": 30,
        "copies_by_voxels": 0.0,
        "copies_by_features": 0.05,
        "fid_like": 1.0,
    }
    return MemorisationReport(**values | changes)


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [report(model_sha256="d" * 64), report(site="delby")],
        [report(), report(site="delby", copies_by_features=0.2)],
        [report(), report(site="delby", samples=8)],
        [report(), report(site="delby", study="d" * 64)],
    ],
    ids=["none", "another model", "copies", "too few", "another study"],
)
def test_no_generative_model_without_every_sites_report(reports: list[MemorisationReport]) -> None:
    """Each training site vouches for exactly this model; held-out ones need not."""
    sites = [
        {"name": "ashford", "role": "train"},
        {"name": "delby", "role": "train"},
        {"name": "eastby", "role": "held_out"},
    ]
    check_generative(
        "dream", "b" * 64, study="a" * 64, reports=[report(), report(site="delby")], sites=sites
    )
    with pytest.raises(TrustError) as caught:
        check_generative("dream", "b" * 64, study="a" * 64, reports=reports, sites=sites)
    assert caught.value.code == "STR-224"
