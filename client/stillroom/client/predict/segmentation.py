"""From one scan to label maps on its own grid and points in its own millimetres.

1. resample to the study's grid; 2. find the heart, cheaply; 3. look at it carefully; 4. decode
points; 5. bring class probabilities back to the scan's grid and decide there.

Memory beyond the scan, its working copy (2 bytes a voxel) and the label maps returned (1 byte a voxel and
label): ``memory_mib`` for everything whose size follows the scan (see ``memory.Workspace``), 2 x 64 MiB for
step 5, and what the network needs for one window. Never the logits of the whole volume.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from stillroom.client.predict.grids import Grid, restore, slices, to_grid, working_grid
from stillroom.client.predict.heart import SMALLEST_ML, How, Place, at_least, find_heart, grown
from stillroom.client.predict.memory import Workspace
from stillroom.client.predict.windows import Slab, Sweep, sweep_volume
from stillroom.client.release import Release
from stillroom.client.training.device import Device
from stillroom.client.training.targets import Point, largest_component
from stillroom.common.study import Label, PointsLabel, Study

Progress = Callable[[str, int, int], None]
"""Called with what is being done, windows done, windows in all."""

HEART_LABEL = "chambers"
"""Alone used to find the heart when a study has it: vessels reach far beyond."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to predict.

    Attributes:
        device: Where and how precisely.
        folder: For arrays that do not fit the budget; on the site's own disk.
        memory_mib: See the module.
        overlap: Of the careful windows.
        coarse: Look for the heart first.
        progress: Told of every window.
    """

    device: Device
    folder: Path
    memory_mib: float = 1024.0
    overlap: float = 0.5
    coarse: bool = True
    progress: Progress = lambda _what, _done, _total: None


@dataclass(slots=True)
class Findings:
    """What was found in one scan.

    Attributes:
        masks: Mask label -> ``(D, H, W)`` uint8 on the scan's grid, 0 = background.
        points: Points label -> name -> mm (LPS), None where not found.
        place: Where the heart was looked for.
        grid: Working grid inside that place.
        volume: ``(D, H, W)`` Hounsfield units on ``grid``.
        classes: Every label -> ``(D, H, W)`` uint8 on ``grid``.
        warnings: Sentences for the reader.
        seconds: Step -> wall time.
    """

    place: Place
    grid: Grid
    volume: NDArray[np.int16]
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    points: dict[str, dict[str, Point | None]] = field(default_factory=dict)
    classes: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Maps:
    """Results of the careful look: per label the best class, how sure, and the classes' probabilities."""

    classes: dict[str, NDArray[np.uint8]]
    sureness: dict[str, NDArray[np.float16]]
    probabilities: dict[str, NDArray[np.float16]]


def segment(image: sitk.Image, release: Release, options: Options) -> Findings:
    """Everything the student of ``release`` finds in ``image`` (3D, Hounsfield units)."""
    study, clock = release.study, _Clock()
    network = options.device.place(release.network).eval()
    grid = working_grid(image, study.volume.spacing_mm)
    volume = to_grid(image, grid)
    clock.stop("resample")
    with Workspace(options.memory_mib, options.folder) as workspace:
        place = _locate(image, volume, grid, release, options, workspace)
        clock.stop("find the heart")
        if place.box_mm is not None:
            box = at_least(grid.box_around(*place.box_mm), grid.size, study.volume.patch)
            grid, volume = grid.crop(box), volume[slices(box)].copy()
        findings = Findings(place, grid, volume)
        sweep = _sweep(study, study.student_labels(), options.overlap)
        points = frozenset(n for n, lb in study.student_labels().items() if lb.kind == "points")
        condition = None
        if study.volume.condition_on is not None:
            condition = _look(
                network, volume, sweep, options, workspace, points=points, condition=None
            ).classes[study.volume.condition_on]
            findings.warnings.append(
                "The study conditions on a label map; the student's own first look was used for it."
            )
        maps = _look(network, volume, sweep, options, workspace, points=points, condition=condition)
        clock.stop("windows")
        findings.classes = maps.classes
        for name, label in study.student_labels().items():
            if isinstance(label, PointsLabel):
                findings.points[name] = _points(maps, name, label.names, grid)
            else:
                findings.masks[name] = restore(maps.probabilities[name], grid, image)
        clock.stop("back to the scan's grid")
    findings.seconds = clock.seconds
    findings.warnings += _warnings(study, findings)
    return findings


def heart_labels(study: Study) -> tuple[str, ...]:
    """Mask labels whose union stands for the heart; empty when the study has points only."""
    masks = tuple(name for name, label in study.student_labels().items() if label.kind == "mask")
    return (HEART_LABEL,) if HEART_LABEL in masks else masks


def _locate(
    image: sitk.Image,
    volume: NDArray[np.int16],
    grid: Grid,
    release: Release,
    options: Options,
    workspace: Workspace,
) -> Place:
    """The heart's box from the localiser or the student, when looking for it is worth it."""
    study, network, labels = release.study, release.network, heart_labels(release.study)
    sweep = _sweep(study, study.student_labels(), 0.0)
    if not options.coarse or not labels:
        return Place("whole field of view", None)
    if sweep.count(volume.shape) == 1:
        return Place("one window", None)
    if release.localiser is not None:
        known = release.localiser
        network, labels = options.device.place(known.network), (known.label,)
        sweep = _sweep(study, {known.label: study.label[known.label]}, 0.0)
        grid = working_grid(image, study.spacing_of(known.stage))
        volume = to_grid(image, grid)
    box = find_heart(
        network,
        volume,
        grid,
        sweep=sweep,
        labels=labels,
        device=options.device,
        workspace=workspace,
        on_window=_ticker(options.progress, "finding the heart", sweep.count(volume.shape)),
    )
    if box is None:
        return Place("whole field of view", None)
    how: How = "student" if release.localiser is None else "localiser"
    return Place(how, grown(box, study.volume.margin_mm))


def _look(
    network: torch.nn.Module,
    volume: NDArray[np.int16],
    sweep: Sweep,
    options: Options,
    workspace: Workspace,
    *,
    points: frozenset[str],
    condition: NDArray[np.uint8] | None,
) -> _Maps:
    """The careful sweep: what each label's head says at every voxel of ``volume``."""
    maps = _Maps({}, {}, {})
    for label, channels in sweep.classes.items():
        maps.classes[label] = workspace.zeros(volume.shape, np.uint8)
        if label in points:
            maps.sureness[label] = workspace.zeros(volume.shape, np.float16)
        else:
            # Background is the rest to 1 and need not be kept.
            shape = (channels - 1, *volume.shape)
            maps.probabilities[label] = workspace.zeros(shape, np.float16)
    for slab in sweep_volume(
        network,
        volume,
        sweep,
        device=options.device,
        workspace=workspace,
        condition=condition,
        on_window=_ticker(options.progress, "reading the heart", sweep.count(volume.shape)),
    ):
        _keep(slab, maps)
    return maps


def _keep(slab: Slab, maps: _Maps) -> None:
    where = slice(slab.start, slab.stop)
    for label, probability in slab.probabilities.items():
        best = probability.max(dim=0)
        maps.classes[label][where] = best.indices.to(torch.uint8).numpy()
        if label in maps.sureness:
            maps.sureness[label][where] = best.values.to(torch.float16).numpy()
        else:
            maps.probabilities[label][:, where] = probability[1:].to(torch.float16).numpy()


def _points(maps: _Maps, label: str, names: tuple[str, ...], grid: Grid) -> dict[str, Point | None]:
    """Centres of mass, weighted by probability, of each class's largest component (arXiv 2407.07557)."""
    found: dict[str, Point | None] = {}
    for number, name in enumerate(names, start=1):
        part = largest_component(maps.classes[label] == number)
        if part is None:
            found[name] = None
            continue
        weight = maps.sureness[label][part].astype(np.float64)
        k, j, i = (np.argwhere(part) * weight[:, None]).sum(0) / weight.sum()
        found[name] = grid.position((float(i), float(j), float(k)))
    return found


def _warnings(study: Study, findings: Findings) -> list[str]:
    found = []
    if findings.place.how == "whole field of view":
        found.append("No heart was found in the quick look; the whole field of view was read.")
    labels = heart_labels(study)
    if labels:
        heart = np.zeros(findings.volume.shape, np.bool_)
        for name in labels:
            heart |= findings.classes[name] > 0
        millilitres = heart.sum() * float(np.prod(findings.grid.spacing_mm)) / 1000
        if millilitres < SMALLEST_ML:
            found.append(
                f"Less than {SMALLEST_ML:g} ml were marked as heart: this scan probably shows none."
            )
    for name, label in study.student_labels().items():
        missing = _missing(name, label, findings)
        if missing:
            found.append(f"Not found of {name}: {', '.join(missing)}.")
    return found


def _missing(name: str, label: Label, findings: Findings) -> list[str]:
    if label.kind == "points":
        return [point for point, mm in findings.points[name].items() if mm is None]
    seen = np.bincount(findings.masks[name].reshape(-1), minlength=len(label.classes) + 1)
    return [c for number, c in enumerate(label.classes, start=1) if not seen[number]]


def _sweep(study: Study, labels: Mapping[str, Label], overlap: float) -> Sweep:
    low, high = study.volume.hu_window
    x, y, z = study.volume.patch
    channels = {name: 1 + len(label.classes) for name, label in labels.items()}
    return Sweep((z, y, x), overlap, low, high, channels, study.input_channels == 2)


def _ticker(progress: Progress, what: str, total: int) -> Callable[[], None]:
    """A callback that counts windows."""
    done = 0
    progress(what, 0, total)

    def tick() -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    return tick


class _Clock:
    """Wall time between calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 3)
        self._last = now
