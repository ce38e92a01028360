"""A release proves itself, says plainly what it is, and loads in MONAI."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle import load as load_bundle
from safetensors.numpy import save as serialise

from stillroom.common.canonical import file_digest
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.memorisation import MemorisationReport
from stillroom.common.nn.denoiser import build_denoiser
from stillroom.common.nn.release import build_release, localiser_stage
from stillroom.common.nn.student import build_student
from stillroom.common.nn.teacher import build_teacher
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import PreparedStage, PreparedStudy, Study

REQUIRED = {
    "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
    "task", "description", "authors", "copyright", "network_data_format",
}  # fmt: skip


def tiny_study() -> Study:
    """The smallest student there is, with a mask, a points label and a localiser."""
    return Study.parse(
        {
            "study": {"name": "release-test"},
            "volume": {"spacing_mm": [3, 3, 3], "patch": [16, 16, 16], "roi": "heart"},
            "label": {
                "heart": {"kind": "mask", "classes": ["heart"]},
                "chambers": {"kind": "mask", "classes": ["LV", "RV"]},
                "hinge": {"kind": "points", "names": ["RCC", "LCC"]},
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {"name": "coarse", "recipe": "teach", "label": "heart", "spacing_mm": [6, 6, 6]},
                {"name": "locate", "recipe": "localise", "teachers": ["coarse"]},
                {"name": "student", "recipe": "distil"},
            ],
        }
    )


@pytest.fixture(scope="module")
def prepared() -> PreparedStudy:
    """The tiny study, frozen."""
    study = tiny_study()
    manifest = manifest_of(build_student(study))
    stage = PreparedStage(initial_sha256="a" * 64, manifest=manifest)
    return PreparedStudy(study=study, stages={"student": stage})


@pytest.fixture(scope="module")
def weights(prepared: PreparedStudy) -> dict[str, Any]:
    """Random weights of the student."""
    return dict(export(initial(lambda: build_student(prepared.study), 7)))


@pytest.fixture
def run(prepared: PreparedStudy) -> dict[str, Any]:
    """A run's summary."""
    scores = {"cases": 4, "classes": {"LV": {"dice": 0.9}, "RV": {"dice": 0.8}}}
    points = {"cases": 4, "classes": {"RCC": {"error_mm": 2.5}, "LCC": {"error_mm": None}}}
    return {
        "study_digest": prepared.digest,
        "tls_version": "TLSv1.3",
        "data": "phantom",
        "sites": [
            {"name": "ashford", "role": "train", "certificate_sha256": "b" * 64},
            {"name": "delby", "role": "held_out", "certificate_sha256": "c" * 64},
        ],
        "stages": [
            {
                "name": "student",
                "recipe": "distil",
                "rounds": [{"sites": ["ashford"], "seconds": 12.5}],
            }
        ],
        "metrics": {
            "delby": {
                "chambers": scores | {"mean_dice": 0.85, "detection_rate": 1.0},
                "hinge": points | {"median_error_mm": 2.5, "detection_rate": 0.5},
            }
        },
    }


def test_the_same_inputs_give_the_same_bytes(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """Two builds are equal file by file, and release.json lists every other file's digest."""
    for name in ("a", "b"):
        build_release(prepared, weights, tmp_path / name, run=run)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert Path("bundle/models/model.pt") in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    about = json.loads((tmp_path / "a" / "release.json").read_text("utf-8"))
    assert set(about["files"]) == {f.as_posix() for f in files} - {"release.json"}
    assert about["model_sha256"] == file_digest(tmp_path / "a" / "model.safetensors")
    assert about["study_digest"] == prepared.digest
    assert about["trained_by"] == [{"name": "ashford", "certificate_sha256": "b" * 64}]


def test_the_card_says_what_a_hospital_asks(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """Purpose, limits, data, sites, results and digests are all there, and honest about misses."""
    build_release(prepared, weights, tmp_path / "r", run=run)
    card = (tmp_path / "r" / "model_card.md").read_text("utf-8")
    for text in (
        "Not a medical device",
        "phantoms",
        "| ashford | trained |",
        "| delby | held out: tested only |",
        "| delby (held out) | 4 | 100 % | 0.850 |",
        "| delby (held out) | 4 | 50 % | 2.5 mm |",
        "LCC none found",
        prepared.digest,
        "Apache-2.0",
    ):
        assert text in card
    assert "heart | mask" not in card  # a localiser's own label is not an output


def test_the_card_of_a_result_from_a_subset(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """Whoever reads nothing but the card learns that not everybody took part; else it says nothing."""
    for number, complete in enumerate((True, False)):
        build_release(
            prepared,
            weights,
            tmp_path / f"{number}",
            run={**run, "complete_participation": complete},
        )
        card = (tmp_path / f"{number}" / "model_card.md").read_text("utf-8")
        assert ("a result from a subset" in card) is not complete


def test_a_card_without_results_says_so(
    prepared: PreparedStudy, weights: dict[str, Any], tmp_path: Path
) -> None:
    """An empty run gives a card that names what is missing instead of leaving it out."""
    build_release(prepared, weights, tmp_path / "r", run={})
    card = (tmp_path / "r" / "model_card.md").read_text("utf-8")
    assert "names no site" in card
    assert "Not measured" in card
    assert "Never tested at a site" in card


def test_a_release_is_refused_when_its_parts_do_not_belong_together(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """A full folder, another study's run, or weights of another shape each have their code."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigError) as full:
        build_release(prepared, weights, tmp_path / "full", run=run)
    assert full.value.code == "STR-107"
    with pytest.raises(TrustError) as other:
        build_release(prepared, weights, tmp_path / "r", run=run | {"study_digest": "0" * 64})
    assert other.value.code == "STR-204"
    with pytest.raises(TrustError) as misfit:
        build_release(prepared, {"x": np.zeros(1, np.float32)}, tmp_path / "r", run=run)
    assert misfit.value.code == "STR-204"
    assert not (tmp_path / "r").exists()


def test_a_generative_model_needs_every_sites_report(
    weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """Unreported, failed or smuggled in as another model it stays; else it is what was tried."""
    raw = tiny_study().model_dump(mode="json")
    raw["model"]["denoiser"] = {"arch": "diffusion-unet", "channels": [8, 8]}
    raw["stage"].append({"name": "dream", "recipe": "pretrain_diffusion"})
    study = Study.parse(raw)
    manifests = {
        "student": manifest_of(build_student(study)),
        "dream": manifest_of(build_denoiser(study)),
    }
    prepared = PreparedStudy(
        study=study,
        stages={
            n: PreparedStage(initial_sha256="a" * 64, manifest=m) for n, m in manifests.items()
        },
    )
    run = run | {"study_digest": prepared.digest}
    dream = export(build_denoiser(study))
    sha256 = hashlib.sha256(serialise({n: dream[n] for n in sorted(dream)})).hexdigest()
    good = MemorisationReport(
        study=prepared.digest,
        stage="dream",
        model_sha256=sha256,
        encoder_sha256="c" * 64,
        site="ashford",
        samples=64,
        steps=50,
        training_slices=100,
        held_out_slices=30,
        copies_by_voxels=0.0,
        copies_by_features=0.0,
        fid_like=1.0,
    )
    bad = good.model_copy(update={"copies_by_features": 0.5})
    out = tmp_path / "r"
    for more in (
        {"denoisers": {"dream": dream}},
        {"denoisers": {"dream": dream}, "reports": [bad]},
        {"localiser_weights": dream, "reports": [good]},
    ):
        with pytest.raises(TrustError) as caught:
            build_release(prepared, weights, out, run=run, **more)
        assert caught.value.code == "STR-224"
        assert not out.exists()
    with pytest.raises(TrustError):
        build_release(prepared, dream, out, run=run, reports=[good])

    build_release(prepared, weights, out, run=run, denoisers={"dream": dream}, reports=[good])

    assert file_digest(out / "dream.safetensors") == sha256
    assert "dream.safetensors" in json.loads((out / "release.json").read_text("utf-8"))["files"]


def test_the_localiser_travels_when_given(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """Its weights are in the folder, and release.json names the stage that trained it."""
    stage = localiser_stage(prepared.study)
    assert stage is not None
    teacher = export(build_teacher(prepared.study, "heart"))
    build_release(prepared, weights, tmp_path / "r", run=run, localiser_weights=teacher)
    about = json.loads((tmp_path / "r" / "release.json").read_text("utf-8"))
    assert about["localiser"] == "coarse"
    assert "localiser.safetensors" in about["files"]


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_monai_loads_the_bundle(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """``monai.bundle.load`` rebuilds the network, and it answers as the student does."""
    build_release(prepared, weights, tmp_path / "r", run=run)
    network = load_bundle(
        "bundle", bundle_dir=str(tmp_path / "r"), workflow_type="inference", device="cpu"
    )
    student = initial(lambda: build_student(prepared.study), 7)
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got, want = network.eval()(x), student.eval()(x)
    assert list(got) == ["chambers", "hinge"]
    for label, logits in want.items():
        assert torch.equal(got[label], logits)


def test_the_metadata_has_what_monai_asks_for(
    prepared: PreparedStudy, weights: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """The specification's required keys are present and MONAI's parser reads them."""
    build_release(prepared, weights, tmp_path / "r", run=run)
    parser = ConfigParser()
    parser.read_meta(str(tmp_path / "r" / "bundle" / "configs" / "metadata.json"))
    metadata = parser.get("_meta_")
    assert metadata.keys() >= REQUIRED
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 1
    assert metadata["network_data_format"]["outputs"]["chambers"]["channel_def"]["2"] == "RV"
