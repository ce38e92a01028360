"""Folders of pictures as cases: what is read, what is refused, and how a class is learned from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from stillroom.client.intake import pictures
from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.quality import Limits
from stillroom.client.intake.rules import Rules
from stillroom.client.intake.store import CaseStore
from stillroom.client.intake.working_copy import prepare
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial
from stillroom.common.study import Study

RULES = Rules.model_validate(
    {"labels": {"tumour": {"files": "classes.csv"}}, "pictures": {"files": "slides/*/*"}}
)


@pytest.fixture
def study() -> Study:
    """Slices of 32 pixels; one class for each slide."""
    options = {"tile": 16, "width": 8, "most_tiles": 4}
    train = {"steps": 2, "batch_size": 2}
    return Study.parse(
        {
            "study": {"name": "slides", "validation_fraction": 0.0},
            "volume": {"spacing_mm": [0.5, 0.5, 1], "patch": [32, 32, 1], "hu_window": [0, 255]},
            "label": {"tumour": {"kind": "bag", "classes": ["no", "yes"]}},
            "model": {"student": {"arch": "pocket-unet", "channels": [4, 8, 8]}},
            "stage": [
                {"name": "tell", "recipe": "bags", "label": "tumour", "train": train,
                 "options": options},
            ],
        }
    )  # fmt: skip


def write(path: Path, pixels: NDArray[Any], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **more)
    return path


def noise(seed: int, size: tuple[int, ...] = (32, 48)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def take(folder: Path) -> Catalogue:
    return scan(folder / "data", state=folder / "state", rules=RULES)


def test_a_folder_of_pictures_is_a_case_and_learns(tmp_path: Path, study: Study) -> None:
    """Two slides and one large picture: copied pixel by pixel, classified, scored."""
    slides = tmp_path / "data" / "slides"
    for name, count in (("s1", 3), ("s2", 2)):
        for number in range(count):
            write(slides / name / f"{number}.png", noise(number))
    write(slides / "s3" / "whole.tif", noise(9, (64, 80)))
    write(tmp_path / "data" / "screenshot.png", noise(1))
    (tmp_path / "data" / "classes.csv").write_text("series,class\ns1,no\ns2,yes\ns3,yes\n", "utf-8")
    store, catalogue = CaseStore(tmp_path), take(tmp_path)

    report = prepare(catalogue, study, RULES, store)

    assert catalogue.skipped == 1
    assert not report.failed
    assert not report.labels
    assert sorted(store.info(c).bags["tumour"] for c in store.ids()) == ["no", "yes", "yes"]
    first = next(e.id for e in catalogue.entries if len(e.files) == 3)
    assert store.image(first).shape == (3, 32, 48)
    np.testing.assert_array_equal(store.image(first)[1], noise(1))
    stage = study.stage_named("tell")
    weights = export(initial(lambda: module_of(study, stage), 0))
    context = RecipeContext(study, stage, 1, store, device="cpu", weights=weights)
    result = RECIPES["bags"].run(context)
    assert result.samples == {"encoder": 3, "pool": 3, "head.tumour": 3}


def test_pixels_of_another_size_are_resampled_in_the_plane_alone(
    tmp_path: Path, study: Study
) -> None:
    """A millimetre to a pixel on a grid of half a millimetre: twice the pixels, as many slices."""
    for number in range(3):
        write(tmp_path / "data" / "slides" / "s1" / f"{number}.png", noise(number))
    rules = Rules.model_validate({"pictures": {"files": "slides/*/*", "pixel_mm": 1.0}})
    store = CaseStore(tmp_path)

    prepare(scan(tmp_path / "data", state=tmp_path, rules=rules), study, rules, store)

    assert store.info(store.ids()[0]).shape == (3, 64, 96)


@pytest.mark.parametrize(
    ("pixels", "grey"),
    [
        (np.array([[0, 255]], np.uint8), [0, 255]),
        (np.array([[0, 65535, 257 * 100]], np.uint16), [0, 255, 100]),
        (np.array([[[255, 255, 255], [0, 0, 0], [0, 255, 0]]], np.uint8), [255, 0, 150]),
    ],
    ids=["8 bit", "16 bit", "colour"],
)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_known_pixels(tmp_path: Path, pixels: NDArray[Any], grey: list[int], suffix: str) -> None:
    """Whatever the depth, white is 255; green is bright by its luminance (0.587)."""
    path = write(tmp_path / f"a.{suffix}", pixels)
    size, findings = pictures.look([path], Limits())

    image = pictures.read([path], size)

    assert not findings
    assert [image.GetPixel(x, 0, 0) for x in range(size[0])] == grey


def damaged(folder: Path) -> None:
    write(folder / "a.png", noise(0)).write_bytes(b"\x89PNG\r\n\x1a\nSECRET")


def mixed(folder: Path) -> None:
    write(folder / "a.png", noise(0))
    write(folder / "b.png", noise(0, (8, 8)))


def several_pages(folder: Path) -> None:
    pages = [Image.fromarray(noise(n)) for n in range(2)]
    folder.mkdir(parents=True)
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])


def of_floats(folder: Path) -> None:
    write(folder / "a.tif", noise(0).astype(np.float32))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (damaged, "STR-410"),
        (mixed, "STR-417"),
        (several_pages, "STR-410"),
        (of_floats, "STR-410"),
    ],
)
def test_what_cannot_be_used_says_why(
    tmp_path: Path, make: Callable[[Path], None], code: str
) -> None:
    """A reason with a code and without a word of the file; the scan of the folder goes on."""
    make(tmp_path / "data" / "slides" / "SECRET-1")

    catalogue = take(tmp_path)

    assert [f.code for e in catalogue.entries for f in e.findings] == [code]
    assert "SECRET" not in catalogue.entries[0].findings[0].reason
    assert not catalogue.accepted


def test_a_picture_cut_short_costs_its_case_alone(tmp_path: Path, study: Study) -> None:
    """Headers promise, pixels are missing: found when the working copy is made."""
    slides = tmp_path / "data" / "slides"
    cut = write(slides / "s1" / "a.png", noise(0, (64, 64)))
    cut.write_bytes(cut.read_bytes()[:1500])
    write(slides / "s2" / "a.png", noise(0))
    store = CaseStore(tmp_path)

    report = prepare(take(tmp_path), study, RULES, store)

    assert [finding.code for finding in report.failed.values()] == ["STR-418"]
    assert len(store.ids()) == 1


def test_words_in_a_picture_stay_there(tmp_path: Path, study: Study) -> None:
    """A PNG's text is not in the working copy, the report or the identifier."""
    said = PngImagePlugin.PngInfo()
    said.add_text("Patient", "SECRET-9")
    write(tmp_path / "data" / "slides" / "SECRET-1" / "a.png", noise(0), pnginfo=said)
    store = CaseStore(tmp_path)

    report = prepare(take(tmp_path), study, RULES, store)
    report.save(store.root / "report.json")

    for path in store.root.rglob("*"):
        assert "SECRET" not in str(path.relative_to(store.root))
        assert path.is_dir() or b"SECRET" not in path.read_bytes()
