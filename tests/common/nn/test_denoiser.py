"""The denoiser's maps, its forward process, and what adapters exchange."""

import math
from typing import Any

import pytest
import torch

from stillroom.common.errors import ConfigError
from stillroom.common.nn.denoiser import (
    TIMESTEPS,
    Denoiser,
    build_denoiser,
    noise_schedule,
    norm_groups,
    shared_noise,
)
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import Study


@pytest.fixture
def flat(study_dict: dict[str, Any]) -> dict[str, Any]:
    """The small study with a denoiser and one adapter on each kind of backbone."""
    study_dict["model"]["denoiser"] = {"arch": "diffusion-unet", "channels": [8, 16]}
    study_dict["stage"] += [
        {"name": "dream", "recipe": "pretrain_diffusion"},
        *(
            {"name": f"on-{below}", "recipe": "adapt", "label": "blob", "backbone": below}
            for below in ("teach-blob", "student", "dream")
        ),
    ]
    return study_dict


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """Two levels, in evaluation mode."""
    made = initial(lambda: Denoiser((8, 16)), 1)
    assert isinstance(made, Denoiser)
    return made.eval()


def test_the_forward_process_has_the_published_schedule() -> None:
    """Cumulative products of MONAI's linear schedule, as measured for the reference."""
    bars = noise_schedule().alphas_cumprod
    assert len(bars) == TIMESTEPS
    assert [round(float(bars[t]), 3) for t in (50, 150, 250)] == [0.970, 0.786, 0.521]


@pytest.mark.parametrize("t", [0, 250, 999])
def test_noised_slices_have_the_right_moments(t: int) -> None:
    """Mean and variance of q(x_t | x_0) over many draws of the noise."""
    schedule = noise_schedule()
    bar = float(schedule.alphas_cumprod[t])
    clean = torch.full((1, 1, 256, 256), 0.7)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))

    noisy = schedule.add_noise(clean, noise, torch.tensor([t]))

    spread = math.sqrt(1 - bar)
    assert noisy.mean().item() == pytest.approx(math.sqrt(bar) * 0.7, abs=0.02 * spread + 1e-4)
    assert noisy.std().item() == pytest.approx(spread, rel=0.02)


def test_maps_are_those_of_its_own_forward(denoiser: Denoiser) -> None:
    """The last convolution of what ``features`` gives is what MONAI's forward gives."""
    x = torch.randn(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.nn.init.normal_(denoiser.out[2].conv.weight, std=0.1)
        decoded = denoiser.features(x).decoder
        again = denoiser(x[:, :, 0], torch.zeros(2))
        found = denoiser.out[2](decoded[:, :, 0])
    assert torch.allclose(found, again, atol=1e-5)


def test_slices_do_not_see_each_other(denoiser: Denoiser) -> None:
    """A volume's maps are its slices' maps; sizes are as declared; a second channel is not read."""
    x = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        whole = denoiser.features(x, timestep=50, seed=9)
        one = denoiser.features(x[:, :1, 1:2], timestep=50, seed=9)
    assert torch.allclose(whole.decoder[:, :, 1:2], one.decoder, atol=1e-5)
    assert whole.decoder.shape == (1, denoiser.widths["decoder"], 3, 16, 16)
    assert whole.bottleneck.shape == (1, denoiser.widths["bottleneck"], 3, 8, 8)
    assert whole.encoder.shape[1] == denoiser.widths["encoder"]


def test_reading_noise_is_shared_and_seeded(denoiser: Denoiser) -> None:
    """Equal seeds read a slice with the same noise; another seed or timestep gives another map."""
    x = torch.zeros(1, 1, 2, 16, 16)
    with torch.no_grad():
        maps = [denoiser.features(x, t, s).decoder for t, s in ((99, 1), (99, 1), (99, 2), (9, 1))]
    assert torch.equal(maps[0], maps[1])
    assert torch.allclose(maps[0][:, :, 0], maps[0][:, :, 1], atol=1e-5)
    assert not torch.allclose(maps[0], maps[2])
    assert not torch.allclose(maps[0], maps[3])
    assert torch.equal(shared_noise(torch.Size([4, 4]), 7), shared_noise(torch.Size([4, 4]), 7))


@pytest.mark.parametrize(
    ("channels", "groups"), [((16, 32, 32), 4), ((8, 16), 2), ((256, 512), 32), ((6, 10), 1)]
)
def test_groups_divide_every_level(channels: tuple[int, ...], groups: int) -> None:
    """No group is one channel alone."""
    assert norm_groups(channels) == groups


def test_a_linear_adapter_is_one_layer(flat: dict[str, Any]) -> None:
    """K (C + 1) scalars of four bytes, whatever it stands on."""
    study = Study.parse(flat)
    for below, width in (("teach-blob", 4), ("student", 6), ("dream", 8)):
        manifest = manifest_of(module_of(study, study.stage_named(f"on-{below}")))
        assert manifest.nbytes == 2 * (width + 1) * 4
        assert manifest.groups == ("head.blob",)


def test_a_decoder_adapter_has_the_backbones_names(flat: dict[str, Any]) -> None:
    """Head and decoder, nothing of the encoder, none of the convolution that made noise."""
    for stage in flat["stage"][-2:]:
        stage["options"] = {"how": "decoder"}
    study = Study.parse(flat)
    for below, parts in (("student", {"decoder"}), ("dream", {"up_blocks", "out"})):
        own = export(module_of(study, study.stage_named(f"on-{below}")))
        theirs = export(module_of(study, study.stage_named(below)))
        assert {name.split(".")[0] for name in own} == parts | {"heads"}
        shared = [name for name in own if not name.startswith("heads.")]
        assert all(theirs[name].shape == own[name].shape for name in shared)
        assert set(shared) == {
            n for n in theirs if n.split(".")[0] in parts and not n.startswith("out.2.")
        }


@pytest.mark.parametrize(
    ("below", "options", "extra", "match"),
    [
        ("student", {"timestep": 50}, {}, "no denoiser"),
        ("dream", {"slices": 4}, {}, "slices deep"),
        ("teach-blob", {"how": "decoder"}, {}, "none of its own"),
        ("dream", {"how": "decoder"}, {"aggregation": {"server": "fedadam"}}, "clipped or damped"),
    ],
)
def test_an_adapter_that_could_not_work_is_refused(
    flat: dict[str, Any], below: str, options: dict[str, Any], extra: dict[str, Any], match: str
) -> None:
    """The data scientist learns why before anything is prepared."""
    stage = next(one for one in flat["stage"] if one["name"] == f"on-{below}")
    stage |= {"options": options} | extra

    with pytest.raises(ConfigError, match=match) as caught:
        Study.parse(flat)

    assert caught.value.code == "STR-102"


def test_a_denoiser_that_does_not_fit_is_refused(flat: dict[str, Any]) -> None:
    """Another architecture, or a patch that cannot be halved often enough; its depth is free."""
    flat["volume"]["patch"] = [16, 16, 1]
    build_denoiser(Study.parse(flat))
    flat["volume"]["patch"] = [15, 16, 16]
    with pytest.raises(ConfigError, match="multiples of") as size:
        build_denoiser(Study.parse(flat))
    flat["model"]["denoiser"] = {"arch": "dynunet", "channels": [8, 16, 16]}
    with pytest.raises(ConfigError, match="no") as kind:
        build_denoiser(Study.parse(flat))
    assert [size.value.code, kind.value.code] == ["STR-106", "STR-102"]
