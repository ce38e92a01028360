"""Files that are damaged, hostile or something else: findings, never a crash."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stillroom.client.data_cli import data as app
from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.volume import load_volume
from stillroom.common.errors import CODES, DataError

QUIET = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def write_grid(path: Path, array: np.ndarray) -> None:
    """An array (z, y, x) at 0.5 x 0.6 x 0.7 mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6, 0.7))
    sitk.WriteImage(image, str(path), True)


def ct() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 300, (20, 18, 17)).astype(np.int16)


def codes(folder: Path, **options: Any) -> list[list[str]]:
    entries = scan(folder, state=folder.parent / "state", **options).entries
    return [[finding.code for finding in entry.findings] for entry in entries]


@QUIET
@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=6),
    keep=st.one_of(st.none(), st.integers(0, 1200)),
)
def test_a_mutated_slice_gives_entries_or_findings(
    write_series: Any, tmp_path: Path, edits: list[tuple[int, bytes]], keep: int | None
) -> None:
    """Whatever happened to its bytes, the scan ends, and loading works or says why not."""
    folder = tmp_path / "one"
    if not folder.exists():
        write_series("one", count=1)
        (tmp_path / "good").write_bytes((folder / "000").read_bytes())
    raw = bytearray((tmp_path / "good").read_bytes())
    for at, patch in edits:
        raw[at % len(raw) : at % len(raw) + len(patch)] = patch
    (folder / "000").write_bytes(bytes(raw[:keep]))
    for entry in scan(folder, state=tmp_path / "state", min_slices=1, max_voxels=10**6).entries:
        assert all(finding.code in CODES for finding in entry.findings)
        try:
            image = load_volume(entry, max_voxels=10**6)
        except DataError:
            continue
        assert image.GetSize() == entry.size


@QUIET
@given(
    suffix=st.sampled_from([".nii", ".nrrd", ".mha"]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=4),
    keep=st.one_of(st.none(), st.integers(0, 3000)),
)
def test_a_mutated_grid_file_gives_entries_or_findings(
    tmp_path: Path, suffix: str, edits: list[tuple[int, bytes]], keep: int | None
) -> None:
    """The same for NIfTI, NRRD and MetaImage."""
    folder = tmp_path / "grids"
    folder.mkdir(exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    path = folder / f"image{suffix}"
    write_grid(path, ct()[:6, :6, :6])
    raw = bytearray(path.read_bytes())
    for at, patch in edits:
        raw[at % len(raw) : at % len(raw) + len(patch)] = patch
    path.write_bytes(bytes(raw[:keep]))
    for entry in scan(folder, state=tmp_path / "state", min_slices=1, max_voxels=10**6).entries:
        try:
            load_volume(entry, max_voxels=10**6)
        except DataError:
            continue


def test_things_that_are_not_images(tmp_path: Path) -> None:
    """Text, empty files, pipes, broken links, odd names: skipped; the scan ends."""
    folder = tmp_path / "mess"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "empty").write_bytes(b"")
    (folder / ".hidden").write_bytes(b"x")
    (folder / "link").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_bytes(b"\0" * 200)
    found = scan(folder, state=tmp_path / "state")
    assert (found.entries, found.skipped) == ((), 3)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_grid_file_is_accepted_and_loaded(tmp_path: Path, suffix: str) -> None:
    """An image in Hounsfield units is an image, whatever it is called."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_grid(folder / f"a{suffix}", ct())
    (entry,) = scan(folder, state=tmp_path / "state").accepted
    np.testing.assert_array_equal(sitk.GetArrayFromImage(load_volume(entry)), ct())
    assert entry.spacing_mm == pytest.approx((0.5, 0.6, 0.7), abs=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_label_map_is_a_label(tmp_path: Path, suffix: str, dtype: Any) -> None:
    """Few whole values from zero on are labels in any type."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_grid(folder / f"a{suffix}", (ct() > 100).astype(dtype))
    found = scan(folder, state=tmp_path / "state")
    assert not found.entries
    assert [candidate.format for candidate in found.candidates] == ["mask"]


def test_bombs(tmp_path: Path) -> None:
    """Sizes that nothing real has are refused by the header, before memory is asked for."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_grid(folder / "a.nii", ct())
    raw = bytearray((folder / "a.nii").read_bytes())
    raw[42:48] = np.asarray([30000, 30000, 30000], "<i2").tobytes()
    (folder / "a.nii").write_bytes(bytes(raw))
    (folder / "b.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    assert codes(folder) == [["STR-422"], ["STR-422"]]


def test_a_file_that_inflates_beyond_its_header(tmp_path: Path) -> None:
    """Forty megabytes of zeros behind a small image are noticed without inflating them."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_grid(folder / "a.nii", ct())
    raw = (folder / "a.nii").read_bytes()
    (folder / "a.nii").unlink()
    (folder / "a.nii.gz").write_bytes(gzip.compress(raw + bytes(40 * 2**20), 1))
    assert codes(folder) == [["STR-422"]]


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_cut_grid_files(tmp_path: Path, share: float) -> None:
    """A cut NIfTI is refused at the scan, or at the latest when it is loaded."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.nii", "b.nii.gz", "c.nrrd", "d.mha"):
        write_grid(folder / name, ct())
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * share)])
    for entry in scan(folder, state=tmp_path / "state").entries:
        with pytest.raises(DataError, match=r"STR-41[08]"):
            load_volume(entry)


def test_the_command_lists_reasons_and_fixes(write_series: Any, tmp_path: Path) -> None:
    """One good and one bad series: both in the table, the bad one with its fix; status 0."""
    write_series("good")
    write_series("bad", edit=lambda _, n: "drop" if n == 7 else None)
    state = str(tmp_path / "state")
    shown = CliRunner().invoke(app, ["scan", str(tmp_path), "--state", state])
    assert shown.exit_code == 0, shown.output
    assert "STR-414" in shown.output
    assert "fix: Export or copy" in shown.output
    assert "1 accepted, 1 quarantined" in shown.output
    raw = CliRunner().invoke(app, ["scan", str(tmp_path), "--state", state, "--json"])
    assert json.loads(raw.stdout)["accepted"] == 1


def test_the_command_fails_when_nothing_is_usable(tmp_path: Path) -> None:
    """An empty folder ends with STR-401, which sets exit status 5."""
    state = str(tmp_path / "state")
    shown = CliRunner().invoke(app, ["scan", str(tmp_path), "--state", state])
    assert isinstance(shown.exception, DataError)
    assert (shown.exception.code, shown.exception.exit_status) == ("STR-401", 5)


def test_file_names_that_are_not_utf8(write_series: Any, tmp_path: Path) -> None:
    """Names in another encoding, which end the image library's process, never reach it."""
    folder = write_series()
    odd = os.fsdecode(b"M\xfcller")
    for path in list(folder.iterdir()):
        path.rename(folder / f"{path.name}{odd}")
    write_grid(folder / "a.nii", ct())
    (folder / "a.nii").rename(folder / f"{odd}.nii")
    catalogue = scan(tmp_path, state=tmp_path / "state")
    catalogue.save(tmp_path / "state" / "catalogue.json")
    assert Catalogue.load(tmp_path / "state" / "catalogue.json") == catalogue
    assert [[f.code for f in entry.findings] for entry in catalogue.entries] == [["STR-410"]] * 2
    for entry in catalogue.entries:
        with pytest.raises(DataError, match="STR-410"):
            load_volume(replace(entry, findings=()))
