"""A whole consortium's data on disk: hospitals with different scanners, labels and file formats.

    OUT/<site>/labelled/<patient>/ct/IM0001.dcm ...   and that patient's labels beside ``ct``
    OUT/<site>/labelled/landmarks.csv                 where a site keeps its points in one table
    OUT/<site>/unlabelled/<patient>/ct/IM0001.dcm ...

``Site.labels`` is what that hospital's administrator would write under ``[labels]`` in its
configuration: per label of the study, a glob relative to the site's folder and, for each class, the
value or name it has in the files.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stillroom.deploy.phantom.anatomy import POINTS
from stillroom.deploy.phantom.annotations import (
    BURDEN,
    Row,
    burden_of,
    write_classes,
    write_markups,
    write_mask,
    write_seg,
    write_table,
)
from stillroom.deploy.phantom.dicom import draw_ids, write_series
from stillroom.deploy.phantom.painting import CHAMBERS, VESSELS, make_case
from stillroom.deploy.phantom.scanner import SCANNERS

Format = Literal["nifti", "nrrd", "seg", "markups", "table", "markups+table", "classes"]
CLASSES: dict[str, tuple[str, ...]] = {
    "chambers": CHAMBERS,
    "vessels": VESSELS,
    "landmarks": POINTS,
    "calcification": ("CALC",),
    "heart": ("HEART",),
    "burden": BURDEN,
}
"""Classes of each label type, in the order of their values (from 1) in label maps."""
_SUFFIX = {"nifti": ".nii.gz", "nrrd": ".nrrd", "seg": ".dcm", "markups": ".mrk.json"}


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """What one hospital shall have.

    Attributes:
        name: Of the hospital and its folder.
        scanner: A key of ``SCANNERS``.
        labels: Label type (a key of ``CLASSES``) to the format it is kept in. Points come as
            ``markups``, one ``table`` for all, or half and half (``markups+table``); the burden of
            calcification, a class of the whole scan, as ``classes``: one table for all.
        labelled, unlabelled: How many patients.
    """

    name: str
    scanner: str
    labels: dict[str, Format]
    labelled: int = 10
    unlabelled: int = 20

    def __post_init__(self) -> None:
        for label, kind in self.labels.items():
            as_points = kind in {"markups", "table", "markups+table"}
            as_classes = kind == "classes"
            if (
                label not in CLASSES
                or as_points != (label == "landmarks")
                or as_classes != (label == "burden")
            ):
                raise ValueError(f"{label} cannot be kept as {kind}")


@dataclass(frozen=True, slots=True)
class Site:
    """What one hospital got.

    Attributes:
        name: Of the hospital.
        folder: Holds ``labelled`` and ``unlabelled``.
        labels: Per label type: ``files`` (a glob relative to ``folder``) and
            ``classes`` (class name to the value or name used in the files).
        labelled, unlabelled: Patients, by the names of their folders.
    """

    name: str
    folder: Path
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    labelled: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


def default_sites(
    *, labelled: int = 10, unlabelled: int = 20, held_out: int = 10, heart: bool = False
) -> tuple[SiteSpec, ...]:
    """The demo's four hospitals; the last one, held out, owns every label type.

    All of them have reports that tell the burden of calcification; a study that does not ask for
    it never sees them.

    Args:
        labelled: Patients with labels of each of the first three.
        unlabelled: Patients without.
        held_out: Patients of the last one, all labelled.
        heart: Whether the first and the last also own whole-heart masks, for a localiser.
    """
    whole: dict[str, Format] = {"heart": "nifti"} if heart else {}
    report: dict[str, Format] = {"burden": "classes"}
    truth: dict[str, Format] = {"chambers": "nrrd", "vessels": "nifti", "landmarks": "table"}
    return (
        SiteSpec("north", "north", {"chambers": "nifti", **whole, **report}, labelled, unlabelled),
        SiteSpec("river", "river", {"vessels": "seg", **report}, labelled, unlabelled),
        SiteSpec(
            "harbour", "harbour", {"landmarks": "markups+table", **report}, labelled, unlabelled
        ),
        SiteSpec("summit", "summit", {**truth, **whole, **report}, held_out, 0),
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """One patient to paint and write; small, because it crosses a process boundary."""

    spec: SiteSpec
    index: int
    folder: Path
    seed: int
    size: int
    spacing_mm: float

    @property
    def labelled(self) -> bool:
        return self.index < self.spec.labelled

    @property
    def patient(self) -> str:
        return f"{self.spec.name[0].upper()}{self.index + 1:04d}"


def make_consortium(
    out: Path,
    *,
    sites: Sequence[SiteSpec] | None = None,
    seed: int = 0,
    size: int = 64,
    spacing_mm: float = 3.0,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> tuple[Site, ...]:
    """Paint and write every patient of every hospital.

    Args:
        out: Folder that gets one folder per site; created.
        sites: ``default_sites()`` when left out.
        seed: Of everything; the same arguments write the same bytes.
        size: Voxels in plane.
        spacing_mm: In plane.
        progress: Called with (patients done, patients in all) after each.
        workers: Processes; 1 stays in this one.

    Returns:
        The sites in the order given.

    Raises:
        FileExistsError: A site's folder exists already.
    """
    specs = default_sites() if sites is None else tuple(sites)
    for spec in specs:
        (out / spec.name).mkdir(parents=True)
    tasks = [
        _Task(spec, k, out / spec.name, seed * 1_000_003 + 1_000 * s + k, size, spacing_mm)
        for s, spec in enumerate(specs)
        for k in range(spec.labelled + spec.unlabelled)
    ]
    tables: dict[str, list[Row]] = {spec.name: [] for spec in specs}
    judged: dict[str, list[tuple[str, str]]] = {spec.name: [] for spec in specs}
    for done, (task, lines) in enumerate(_carry_out(tasks, workers), 1):
        if lines.points is not None:
            tables[task.spec.name].append(lines.points)
        if lines.judged is not None:
            judged[task.spec.name].append(lines.judged)
        if progress is not None:
            progress(done, len(tasks))
    for spec in specs:
        if tables[spec.name]:
            write_table(tables[spec.name], out / spec.name / "labelled" / "landmarks.csv")
        if judged[spec.name]:
            write_classes(judged[spec.name], out / spec.name / "labelled" / "burden.csv")
    return tuple(_describe(spec, out / spec.name, tasks) for spec in specs)


@dataclass(frozen=True, slots=True)
class _Lines:
    """A patient's lines in the site's tables; None where there is none."""

    points: Row | None = None
    judged: tuple[str, str] | None = None


def _carry_out(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[_Task, _Lines]]:
    """Yield tasks with their lines in the tables, in order, however many processes work."""
    if workers <= 1 or len(tasks) < 2:
        yield from ((task, _write_patient(task)) for task in tasks)
        return
    # Spawned, not forked: the caller may have threads (Flower, torch) that a fork would freeze.
    with _single_threaded(), multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from zip(tasks, pool.imap(_write_patient, tasks, chunksize=1), strict=True)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One thread per worker: two processes on two cores must not fight over them."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _write_patient(task: _Task) -> _Lines:
    """Paint and write one patient; what of it belongs into the site's tables."""
    spec = task.spec
    case = make_case(task.seed, spec.scanner, size=task.size, spacing_mm=task.spacing_mm)
    ids = draw_ids(spec.name, task.patient, task.seed)
    folder = task.folder / ("labelled" if task.labelled else "unlabelled") / task.patient
    scans = write_series(case, folder / "ct", ids, SCANNERS[spec.scanner])
    if not task.labelled:
        return _Lines()
    points: Row | None = None
    judged: tuple[str, str] | None = None
    for label, kind in spec.labels.items():
        if label == "burden":
            judged = (ids.series, burden_of(case))
            continue
        if label == "landmarks":
            if kind == "table" or (kind == "markups+table" and task.index % 2):
                points = (ids.series, case.points)
            else:
                write_markups(case.points, folder / "landmarks.mrk.json")
            continue
        mask = getattr(case, label)
        path = folder / f"{label}{_SUFFIX[kind]}"
        if kind == "seg":
            write_seg(mask, CLASSES[label], scans, path)
        else:
            write_mask(case, mask, path)
    return _Lines(points, judged)


def _describe(spec: SiteSpec, folder: Path, tasks: Sequence[_Task]) -> Site:
    labels: dict[str, dict[str, Any]] = {}
    for label, kind in spec.labels.items():
        files = f"labelled/*/{label}{_SUFFIX.get(kind, '')}"
        if label == "landmarks":
            # One pattern that matches the table, the single files, or both.
            files = "labelled/**/landmarks.*"
        if label == "burden":
            files = "labelled/burden.csv"
        named = kind == "seg" or label in {"landmarks", "burden"}
        classes = {name: name if named else k for k, name in enumerate(CLASSES[label], 1)}
        labels[label] = {"files": files, "classes": classes}
    own = [task for task in tasks if task.spec.name == spec.name]
    return Site(
        spec.name,
        folder,
        labels,
        tuple(task.patient for task in own if task.labelled),
        tuple(task.patient for task in own if not task.labelled),
    )
