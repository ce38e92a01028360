"""What ``stillroom-client predict`` does, once its arguments are read. Heavy to import."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from stillroom.client.predict.processor import choose_processor
from stillroom.client.predict.results import Context, write_results
from stillroom.client.predict.segmentation import Options, segment
from stillroom.client.predict.source import read_source
from stillroom.client.release import Release
from stillroom.client.training.device import Setting


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of the command; see ``stillroom-client predict --help``."""

    scan: Path
    release: Path
    out: Path
    device: Setting
    threads: int
    memory_mib: int
    whole: bool = False


def run(request: Request, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Predict and write the results into the existing, empty folder ``request.out``.

    Raises:
        TrustError: The release is not what it says (STR-204).
        DataError: The scan cannot be used (STR-4xx).
        ResourceError: The device is not there (STR-500).
    """
    if request.threads:
        torch.set_num_threads(request.threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(request.threads)
    release = Release.load(request.release)
    device = choose_processor(request.device)
    source = read_source(request.scan, release.study.volume.min_slices)
    findings = segment(
        source.image,
        release,
        Options(
            device,
            request.out,
            memory_mib=request.memory_mib,
            coarse=not request.whole,
            progress=progress,
        ),
    )
    context = Context(source, release, device, torch.get_num_threads())
    return write_results(findings, context, request.out)
