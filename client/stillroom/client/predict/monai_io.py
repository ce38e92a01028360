"""What a release's MONAI Bundle needs of us: a scan on the study's grid, and label maps on the scan's.

MONAI's own ``LoadImage`` and ``Orientation`` need nibabel, and would put voxels elsewhere than training did;
so the two ends are ours, and what lies between (intensity, windows) is MONAI's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from stillroom.client.predict.grids import Grid, restore, to_grid, working_grid
from stillroom.client.predict.results import write_mask
from stillroom.client.predict.source import read_source


class LoadScan:
    """A transform: path to ``(1, D, H, W)`` Hounsfield units on the study's grid.

    Args:
        spacing_mm: Along (x, y, z).
        min_slices: Series with fewer are refused.
    """

    def __init__(self, spacing_mm: Sequence[float], min_slices: int) -> None:
        x, y, z = spacing_mm
        self._spacing_mm, self._min_slices = (x, y, z), min_slices

    def __call__(self, path: str) -> MetaTensor:
        """The scan at ``path``: anything ``stillroom-client predict`` takes.

        Raises:
            DataError: As ``read_source``.
        """
        image = read_source(Path(path), self._min_slices).image
        grid = working_grid(image, self._spacing_mm)
        volume = torch.from_numpy(to_grid(image, grid).astype(np.float32))[None]
        meta = {"origin_mm": grid.origin_mm, "spacing_mm": grid.spacing_mm}
        return MetaTensor(volume, affine=_affine(grid), meta=meta)


class Predictor:
    """Preprocess, infer, and write ``<label>.nii.gz`` per label type on the scan's own grid.

    Args:
        preprocessing: Path to ``(1, D, H, W)`` as ``LoadScan`` gives it, intensities scaled.
        inferer: Called with ``(1, 1, D, H, W)`` and the network.
        network: The student.
        device: Where it is.
        min_slices: Series with fewer are refused.
    """

    def __init__(
        self,
        preprocessing: Callable[[str], MetaTensor],
        inferer: Callable[[Tensor, nn.Module], dict[str, Tensor]],
        network: nn.Module,
        device: torch.device,
        min_slices: int,
    ) -> None:
        self._preprocessing, self._inferer = preprocessing, inferer
        self._network, self._device = network, device
        self._min_slices = min_slices

    def __call__(self, image: str, output_dir: str) -> list[str]:
        """Write label maps of the scan ``image`` into ``output_dir``; their names."""
        scan = self._preprocessing(image)
        depth, height, width = scan.shape[1:]
        grid = Grid((width, height, depth), scan.meta["spacing_mm"], scan.meta["origin_mm"])
        with torch.inference_mode():
            logits = self._inferer(scan.as_tensor()[None].to(self._device), self._network)
        reference = read_source(Path(image), self._min_slices).image
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for label, values in logits.items():
            foreground = values[0].float().softmax(0)[1:].to("cpu", torch.float16).numpy()
            mask = restore(foreground, grid, reference)
            write_mask(folder / f"{label}.nii.gz", mask, reference)
        return [f"{label}.nii.gz" for label in logits]


def _affine(grid: Grid) -> Tensor:
    """``(4, 4)`` from array index (z, y, x, 1) to RAS mm, as MONAI's metadata has it."""
    x, y, z = grid.spacing_mm
    affine = torch.zeros((4, 4), dtype=torch.float64)
    affine[0, 2], affine[1, 1], affine[2, 0], affine[3, 3] = -x, -y, z, 1
    affine[:3, 3] = torch.tensor(grid.origin_mm) * torch.tensor([-1.0, -1.0, 1.0])
    return affine
