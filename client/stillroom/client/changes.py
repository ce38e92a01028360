"""An update as the change of its base: checked, encoded, and what rounding took kept for later.

Four files pass through here side by side, tensor by tensor: the runner's, its base, the residual of
the round before and the one of this round. What is in memory is the largest tensor, once.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from stillroom.common.encoding import BlobWriter
from stillroom.common.errors import ContractError
from stillroom.common.layout import with_layout
from stillroom.common.manifest import BLOCK, Manifest, Tally, TensorSpec
from stillroom.common.messages import UpdateRef
from stillroom.common.weightfile import WeightReader, file_order, raw_bytes

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Change:
    """What was written.

    Attributes:
        sha256: Of the encoded file.
        nbytes: Its size.
        norm: Of the change as a reader will decode it.
    """

    sha256: str
    nbytes: int
    norm: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What an update is held to.

    Attributes:
        encoding: A delta encoding.
        manifest: The stage's tensors.
        bound: On the norm of the weights; the change may have twice that.
    """

    encoding: str
    manifest: Manifest
    bound: float


def write_change(
    source: RawIOBase,
    out: BinaryIO,
    *,
    update: UpdateRef,
    terms: Terms,
    base: Path,
    before: Path | None,
    after: Path,
) -> Change:
    """Encode ``source - base + before``, and keep what the encoding lost of it.

    Args:
        source: The runner's file; read once, front to back.
        out: Takes the encoded file.
        update: What the runner says of its file.
        terms: What the update is held to.
        base: The global model the update was made from.
        before: Residual of the round before; None for none. Its size has been looked at.
        after: Where the residual of this round goes. Not forced to the disk, as that costs every
            round more than it is worth: it outlives its process, and what a power cut takes of it
            is the rounding of one round.

    Raises:
        ContractError: STR-300 to STR-303, not a plain file of the manifest's tensors, finite and
            bounded; STR-311, the update or its base is not what its name says.
        OSError: The disk.
    """
    manifest = terms.manifest
    with ExitStack() as stack, np.errstate(over="ignore"):  # what overflows is refused below
        new = WeightReader(with_layout(cast(BinaryIO, source), manifest), manifest)
        old = WeightReader(_opened(stack, base), manifest)
        left = None if before is None else stack.enter_context(before.open("rb"))
        rest = stack.enter_context(after.open("wb"))
        writer = BlobWriter(out, terms.encoding, manifest)
        whole, change = Tally(manifest, terms.bound), Tally(manifest, 2 * terms.bound)
        room = np.empty(_largest(manifest), np.float32)
        for spec in file_order(manifest):
            if spec.dtype != "float32":
                value = _other(spec, new, old, whole)
                writer.add(spec.name, value)
                change.add(spec, value)
                continue
            size = math.prod(spec.shape)
            value = room[:size]
            for block in _subtract(spec, value, new, old, whole):
                _add(block, left)
            for start, block in writer.blocks(spec.name, value.reshape(spec.shape)):
                change.add(spec, block)
                lost = value[start : start + block.size]
                np.subtract(lost, block, out=lost)
                rest.write(raw_bytes(lost))
        if new.finish() != (update.sha256, update.nbytes) or old.finish()[0] != update.base:
            raise _other_file()
        whole.norm()
        rest.flush()
        return Change(*writer.finish(), change.norm())


def _subtract(
    spec: TensorSpec, into: Floats, new: WeightReader, old: WeightReader, tally: Tally
) -> Iterator[Floats]:
    """Blocks of a tensor's change, in place, once its new values were found good."""
    room = np.empty(min(BLOCK, into.size), np.float32)
    for start in range(0, into.size, BLOCK):
        block = into[start : start + BLOCK]
        new.read(block)
        tally.add(spec, block)
        earlier = room[: block.size]
        old.read(earlier)
        np.subtract(block, earlier, out=block)
        yield block


def _add(block: Floats, left: BinaryIO | None) -> None:
    """Add what an earlier round left of these values."""
    if left is not None:
        block += np.frombuffer(left.read(block.nbytes), np.float32)


def _other(spec: TensorSpec, new: WeightReader, old: WeightReader, tally: Tally) -> NDArray[Any]:
    """A tensor of another dtype: it travels as it is."""
    value = np.empty(spec.shape, spec.dtype)
    old.read(value)
    new.read(value)
    tally.add(spec, value)
    return value


def residual_bytes(manifest: Manifest) -> int:
    """Size of a residual: the float32 values of a manifest, and nothing else."""
    return sum(spec.nbytes for spec in manifest.tensors if spec.dtype == "float32")


def _largest(manifest: Manifest) -> int:
    """Values of the largest tensor."""
    return max((math.prod(spec.shape) for spec in manifest.tensors), default=0)


def _opened(stack: ExitStack, base: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, stack.enter_context(base.open("rb", buffering=0)))
    except OSError as error:
        raise _other_file() from error


def _other_file() -> ContractError:
    return ContractError(
        "The update, or the model it was made from, is not what its name says.",
        fix="See the runner's log; the update was not used.",
        code="STR-311",
    )
