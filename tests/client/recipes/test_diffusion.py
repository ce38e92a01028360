"""Laws of ``pretrain_diffusion``: its loss, its samples, and that labels have no part in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.pretrain_diffusion import denoising_loss
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device
from stillroom.client.training.sampling import normalise
from stillroom.client.training.slices import SliceSource
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.denoiser import Denoiser
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import Study

Fill = Callable[..., CaseStore]
CPU = Device("cpu", bf16=False, channels_last=False, reason="a test")


@pytest.fixture
def dream(study_dict: dict[str, Any]) -> Study:
    """The toy with a denoiser to train."""
    study_dict["model"]["denoiser"] = {"arch": "diffusion-unet", "channels": [8, 8]}
    study_dict["stage"].append(
        {
            "name": "dream",
            "recipe": "pretrain_diffusion",
            "rounds": 2,
            "train": {"learning_rate": 2e-3, "steps": 8, "batch_size": 2},
        }
    )
    return Study.parse(study_dict)


def begin(study: Study, store: CaseStore) -> RecipeContext:
    """Round 1 from fresh weights."""
    stage = study.stage_named("dream")
    weights = export(initial(lambda: module_of(study, stage), 1))
    return RecipeContext(study, stage, 1, store, weights=weights, device="cpu")


def test_the_loss_is_the_noises_mean_square() -> None:
    """A fresh network predicts 0 and so loses the mean square of the noise, whatever the slice."""
    module = Denoiser((8, 8)).eval()
    clean, times = torch.rand(3, 1, 8, 8), torch.tensor([0, 500, 999])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    assert denoising_loss(module, clean, times, noise, device=CPU).item() == pytest.approx(
        float(noise.square().mean()), rel=1e-6
    )
    with torch.no_grad():
        module.out[2].conv.bias.fill_(2.0)
    constant = torch.full_like(noise, 2.0)
    assert denoising_loss(module, clean, times, constant, device=CPU).item() == 0.0


def test_two_rounds_learn_and_repeat(dream: Study, fill: Fill, tmp_path: Path) -> None:
    """The loss falls, equal seeds give equal bytes, and a site counts by its slices."""
    context = begin(dream, fill(tmp_path / "a", 2, 2))

    first = RECIPES["pretrain_diffusion"].run(context)
    again = RECIPES["pretrain_diffusion"].run(context)
    second = RECIPES["pretrain_diffusion"].run(replace(context, round=2, weights=first.weights))

    assert first.weights is not None
    assert again.weights is not None
    check_metrics(first.metrics, dream)
    manifest = manifest_of(module_of(dream, context.stage))
    manifest.check(first.weights, max_norm=1e6)
    assert set(first.samples) == set(manifest.groups)
    assert len(set(first.samples.values())) == 1
    assert 4 < first.samples["out"] <= 16
    assert first.metrics["train.cases"] == 4
    assert second.metrics["train.diffusion.loss"] < first.metrics["train.diffusion.loss"]
    assert all(first.weights[n].tobytes() == again.weights[n].tobytes() for n in first.weights)


def test_labels_have_no_part_in_it(dream: Study, fill: Fill, tmp_path: Path) -> None:
    """The same slices with and without labels give the same weights, bit for bit."""
    split = dream.study.model_copy(update={"validation_fraction": 0.0})
    study = dream.model_copy(update={"study": split})
    found = []
    for folder, counts in (("a", (3, 0)), ("b", (0, 3))):
        context = begin(study, fill(tmp_path / folder, *counts))
        found.append(RECIPES["pretrain_diffusion"].run(context).weights)

    assert found[0] is not None
    assert found[1] is not None
    assert all(found[0][n].tobytes() == found[1][n].tobytes() for n in found[0])


def test_slices_are_cuts_of_their_cases(dream: Study, fill: Fill, tmp_path: Path) -> None:
    """Every case before any comes again; what is drawn is there in the scan, unchanged."""
    store = fill(tmp_path / "a", 3)
    read = WorkingSet.of_stage(store, dream, dream.stage_named("dream")).case
    source = SliceSource(store.ids(), read, volume=dream.volume, batch_size=3, seed=1)

    batch = source.draw()

    assert batch.targets == {}
    assert {name.split("/")[0] for name in batch.ids} == set(store.ids())
    for name, x in zip(batch.ids, batch.x, strict=True):
        case_id, _, number = name.partition("/")
        whole = read(case_id).image[int(number)]
        slice_ = normalise(torch.from_numpy(whole), dream.volume.hu_window).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(slice_, (16, 16))
        assert (windows == x[0, 0].numpy()).all((2, 3)).any()
