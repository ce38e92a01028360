"""Working copies: right voxels, right labels, nothing of the patient, nothing done twice."""

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.rules import Rules
from stillroom.client.intake.store import CaseStore, Provenance
from stillroom.client.intake.working_copy import PrepareReport, prepare
from stillroom.common.study import Study

RULES = Rules.model_validate(
    {
        "labels": {
            "chambers": {"files": "*/mask*"},
            "hinge": {"files": "points.csv", "classes": {"RCC": "right"}},
        }
    }
)


def study_of(**volume: object) -> Study:
    return Study.parse(
        {
            "study": {"name": "working-copies"},
            "volume": {"spacing_mm": [0.7, 0.9, 1.25], "patch": [8, 8, 8]} | volume,
            "label": {
                "chambers": {"kind": "mask", "classes": ["outer", "inner", "dot"]},
                "hinge": {"kind": "points", "names": ["RCC", "LCC"]},
            },
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": "s", "recipe": "distil"}],
        }
    )


class Hospital:
    """A folder with two DICOM series, a mask beside the first and points for both."""

    def __init__(
        self, folder: Path, write_series: Callable[..., object], truth: NDArray[np.uint8]
    ) -> None:
        self.data, self.state, self.store = folder / "data", folder / "state", CaseStore(folder)
        self.series = [write_series(self.data / name / "ct") for name in ("p1", "p2")]
        self.scan_image: sitk.Image = self.series[0].image  # type: ignore[attr-defined]
        mask = sitk.GetImageFromArray(truth)
        mask.CopyInformation(self.scan_image)
        sitk.WriteImage(mask, str(self.data / "p1/mask.nii.gz"))
        self.point = self.scan_image.TransformContinuousIndexToPhysicalPoint((4.2, 5.1, 3.3))
        with (self.data / "points.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["series", "name", "x", "y", "z"])
            for series in self.series:
                table.writerow([series.uid, "right", *self.point])  # type: ignore[attr-defined]
                table.writerow([series.uid, "LCC", "", "", ""])  # type: ignore[attr-defined]

    def catalogue(self, rules: Rules = RULES) -> Catalogue:
        """A fresh scan of the folder."""
        return scan(self.data, state=self.state, min_slices=3, rules=rules)

    def prepare(
        self, study: Study | None = None, rules: Rules = RULES, **changes: object
    ) -> PrepareReport:
        """Scan and prepare."""
        return prepare(
            self.catalogue(rules), study or study_of(), rules, self.store, **changes  # type: ignore[arg-type]
        )  # fmt: skip

    def labelled(self) -> str:
        """The case that has the mask."""
        return next(case for case in self.store.ids() if self.store.info(case).masks)


@pytest.fixture
def hospital(
    tmp_path: Path, write_series: Callable[..., object], truth: NDArray[np.uint8]
) -> Hospital:
    return Hospital(tmp_path, write_series, truth)


def test_copies_are_exact(hospital: Hospital, truth: NDArray[np.uint8]) -> None:
    """On the study's own grid voxels are unchanged; points keep their millimetres."""
    report = hospital.prepare()

    assert len(report.written) == 2
    assert not report.failed
    assert not report.labels
    case = hospital.labelled()
    info = hospital.store.info(case)
    values = sitk.GetArrayFromImage(hospital.scan_image)
    np.testing.assert_array_equal(hospital.store.image(case), values)
    np.testing.assert_array_equal(hospital.store.mask(case, "chambers"), truth)
    assert info.origin_mm == pytest.approx(hospital.scan_image.GetOrigin(), abs=1e-3)
    assert info.points["hinge"]["RCC"] == pytest.approx(hospital.point, abs=1e-3)
    assert info.points["hinge"]["LCC"] is None
    assert info.labels == {"chambers", "hinge"}


def test_nothing_of_the_patient_is_in_the_store(
    hospital: Hospital, secrets: tuple[str, ...]
) -> None:
    """Every byte and name under the store is searched for what was planted in the headers."""
    report = hospital.prepare()
    report.save(hospital.store.root.parent / "prepare.json")
    series = [s.uid for s in hospital.series]  # type: ignore[attr-defined]
    planted = [text.encode() for text in (*secrets, *series, "p1", "mask.nii", str(hospital.data))]
    files = [path for path in hospital.store.root.rglob("*") if path.is_file()]
    files.append(hospital.store.root.parent / "prepare.json")

    assert len(files) > 6
    for path in files:
        # "p1" is too short to search voxels for; it must not be in any text.
        wanted = [p for p in planted if len(p) > 2 or path.suffix == ".json"]
        content = path.read_bytes()
        assert not [p for p in wanted if p in content]
        assert not [p for p in planted if p.decode() in path.name and len(p) > 2]


def test_second_run_touches_nothing(hospital: Hospital) -> None:
    """Unchanged cases keep their files and with them their pseudo-labels."""
    hospital.prepare()
    case = hospital.labelled()
    now = time.time()
    pseudo = Provenance("0" * 64, "label", True, 0, now, now + 1e6)
    hospital.store.write_pseudo(case, "hinge", np.zeros((8, 9, 10), np.uint8), pseudo)

    report = hospital.prepare()

    assert not report.written
    assert len(report.unchanged) == 2
    assert hospital.store.pseudo(case, "hinge") is not None


def test_whatever_decides_a_copy_renews_it(hospital: Hospital) -> None:
    """Another label file, another class map or another grid: done again, and only that case."""
    hospital.prepare()
    case = hospital.labelled()

    os.utime(hospital.data / "p1/mask.nii.gz", (1, 1))
    assert hospital.prepare().written == [case]
    (hospital.data / "p1/mask.nii.gz").unlink()
    assert hospital.prepare().written == [case]
    assert hospital.store.info(case).masks == ()
    assert not (hospital.store.root / case / "mask.chambers.npy").exists()
    assert len(hospital.prepare(study_of(spacing_mm=[1, 1, 1])).written) == 2


def test_crash_before_the_last_file_means_once_more(hospital: Hospital) -> None:
    """Without its note a case is not trusted."""
    hospital.prepare()
    case = hospital.labelled()
    (hospital.store.root / case / "source.json").unlink()

    assert hospital.prepare().written == [case]


def test_broken_scan_fails_alone(hospital: Hospital) -> None:
    """A file that vanishes after the scan costs one case; its old copy is not used any more."""
    hospital.prepare()
    catalogue = hospital.catalogue()
    victim = hospital.series[1].files[3]  # type: ignore[attr-defined]
    victim.write_bytes(victim.read_bytes()[:500])

    report = prepare(catalogue, study_of(), RULES, hospital.store)

    assert len(report.failed) == 1
    assert len(report.unchanged) == 1
    (finding,) = report.failed.values()
    assert finding.code.startswith("STR-4")
    assert len(hospital.store.ids()) == 1


def test_series_that_is_gone_leaves_the_store(hospital: Hospital, tmp_path: Path) -> None:
    """A withdrawn scan stops teaching; cases of another folder in the same store stay."""
    hospital.prepare()
    other = Catalogue(tmp_path / "elsewhere", ())
    assert not prepare(other, study_of(), RULES, hospital.store).removed
    for file in hospital.series[1].files:  # type: ignore[attr-defined]
        file.unlink()

    report = hospital.prepare()

    assert len(report.removed) == 1
    assert len(hospital.store.ids()) == 1


def test_bad_label_costs_only_itself(hospital: Hospital) -> None:
    """A mask with an unknown value is reported; the scan is used without it, now and later."""
    wrong = sitk.GetImageFromArray(np.full((8, 9, 10), 9, np.uint8))
    wrong.CopyInformation(hospital.scan_image)
    sitk.WriteImage(wrong, str(hospital.data / "p1/mask.nii.gz"))

    for report in (hospital.prepare(), hospital.prepare()):
        assert [(f.label, f.finding.code) for f in report.labels] == [("chambers", "STR-431")]
        assert not report.failed
    assert all(hospital.store.info(case).labels == {"hinge"} for case in hospital.store.ids())


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_heart_region_of_the_site_crops(
    hospital: Hospital, truth: NDArray[np.uint8], kind: str
) -> None:
    """The box of a heart mask, or the same box given by the site, plus the study's margin."""
    rules = RULES.model_dump(exclude_none=True)
    if kind == "mask":
        heart = sitk.GetImageFromArray((truth == 2).astype(np.uint8))
        heart.CopyInformation(hospital.scan_image)
        sitk.WriteImage(heart, str(hospital.data / "p1/heart.nrrd"))
        rules["roi"] = {"mask": "*/heart.nrrd"}
    else:
        low = hospital.scan_image.TransformContinuousIndexToPhysicalPoint((3.5, 3.5, 2.5))
        high = hospital.scan_image.TransformContinuousIndexToPhysicalPoint((6.5, 5.5, 4.5))
        uid = hospital.series[0].uid  # type: ignore[attr-defined]
        (hospital.data / "boxes.csv").write_text(
            "series,x_low,y_low,z_low,x_high,y_high,z_high\n"
            + ",".join(map(str, (uid, *low, *high))),
            "utf-8",
        )
        rules["roi"] = {"box": "boxes.csv"}
    study = study_of(roi="heart", margin_mm=1.25)

    report = hospital.prepare(study, Rules.model_validate(rules))

    assert not report.failed
    case = hospital.labelled()
    info = hospital.store.info(case)
    assert info.roi_mm is not None
    # 3 x 2 x 2 voxels, and those that a margin of 1.25 mm touches: 2, 2 and 1 on either side.
    assert info.shape == (4, 6, 7)
    values = sitk.GetArrayFromImage(hospital.scan_image)[2:6, 2:8, 2:9]
    np.testing.assert_array_equal(hospital.store.image(case), values)
    other = next(c for c in hospital.store.ids() if c != case)
    assert hospital.store.info(other).shape == (8, 9, 10)


def test_localisers_copies_are_coarse_and_whole(hospital: Hospital, tmp_path: Path) -> None:
    """A stage with a grid of its own has a store of its own and sees the whole field of view."""
    store = CaseStore(tmp_path / "coarse")
    steps: list[tuple[int, int]] = []

    prepare(
        hospital.catalogue(), study_of(roi="heart"), RULES, store,
        spacing_mm=(2.0, 2.0, 2.0), crop=False, progress=lambda a, b: steps.append((a, b)),
    )  # fmt: skip

    assert [store.info(case).shape for case in store.ids()] == [(5, 4, 4), (5, 4, 4)]
    assert steps == [(0, 2), (1, 2), (2, 2)]


def test_regions_of_a_localiser_crop_until_the_site_says_otherwise(hospital: Hospital) -> None:
    """What a localiser found for a case is used like a box of the site."""
    hospital.prepare()
    case = hospital.labelled()
    x, y, z = hospital.point
    region = {case: ((x - 1, y - 1, z - 1), (x + 1, y + 1, z + 1))}

    report = hospital.prepare(study_of(roi="heart", margin_mm=0), regions=region)

    assert case in report.written
    assert max(hospital.store.info(case).shape) <= 4
    assert hospital.store.info(case).roi_mm == region[case]
