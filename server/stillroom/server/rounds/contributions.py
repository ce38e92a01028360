"""One site's update on disk, walked block by block."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.common.encoding import FP32, BlobReader
from stillroom.common.manifest import BLOCK, Manifest, TensorSpec
from stillroom.common.weightfile import WeightReader

Blocks = Iterator[tuple[TensorSpec, int, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Contribution:
    """An update that has been admitted.

    Attributes:
        site: Name of the site.
        path: Its file, checked already (``common.update.check_update_file``).
        encoding: Of the file.
        base: SHA-256 of the model it was trained from.
        samples: Cases per group.
    """

    site: str
    path: Path
    encoding: str
    base: str
    samples: Mapping[str, int]


def blocks_of(
    contribution: Contribution, base: Path, manifest: Manifest, factor: float = 1.0
) -> Blocks:
    """The update's blocks: weights for ``fp32``, changes for delta encodings.

    Args:
        contribution: The update.
        base: The model it was trained from; read only where an ``fp32`` update is shortened.
        manifest: The stage's tensors.
        factor: By which its distance from ``base`` is multiplied, in [0, 1]; 1 leaves every bit.

    Raises:
        ContractError: The file does not hold what the manifest says.
    """
    with contribution.path.open("rb", buffering=0) as stream:
        # Its digest was proven when it arrived; the folder is the server's own since.
        reader = BlobReader(stream, contribution.encoding, manifest, hashed=False)
        if factor == 1:
            yield from reader
        elif contribution.encoding != FP32:
            for spec, start, block in reader:
                yield spec, start, _scaled(block, factor)
        else:
            for spec, start, block, old in beside(iter(reader), base, manifest):
                yield spec, start, block if old is None else old + _scaled(block - old, factor)
        reader.finish()


def norm_of(contribution: Contribution, base: Path, manifest: Manifest) -> float:
    """Euclidean distance of the update from its base, over all float32 tensors."""
    blocks = blocks_of(contribution, base, manifest)
    total = 0.0
    if contribution.encoding == FP32:
        for _, _, block, old in beside(blocks, base, manifest):
            if old is not None:
                total += _square(block - old)
    else:
        for spec, _, block in blocks:
            if spec.dtype == "float32":
                total += _square(block)
    return math.sqrt(total)


def beside(
    blocks: Blocks, base: Path, manifest: Manifest
) -> Iterator[tuple[TensorSpec, int, NDArray[Any], NDArray[np.float32] | None]]:
    """Blocks in file order with the base's own values; None beside a tensor that is not float32."""
    with base.open("rb", buffering=0) as stream:
        reader = WeightReader(stream, manifest, hashed=False)
        buffer = np.empty(8 * BLOCK, np.uint8)
        for spec, start, block in blocks:
            old = buffer[: block.nbytes].view(spec.dtype)
            reader.read(old)
            yield spec, start, block, old if spec.dtype == "float32" else None
        reader.finish()


def _scaled(block: NDArray[Any], factor: float) -> NDArray[Any]:
    return block * np.float32(factor) if block.dtype == np.float32 else block


def _square(block: NDArray[Any]) -> float:
    wide = block.astype(np.float64)
    return float(np.dot(wide, wide))
