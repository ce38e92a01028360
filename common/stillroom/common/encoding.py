"""Updates on the wire: whole weights, or what changed, in two bytes or one a weight.

``fp32`` is a plain safetensors file. A delta file is ``MAGIC``, one byte that says which encoding,
and then for every tensor, in the order of a safetensors file, a sequence of parts whose number,
kind and unpacked size follow from the manifest alone. A part is one byte (0 raw, 1 zstd), the
length as u32, and its bytes (``common.parts``):

* ``bf16-delta``: per block the high bytes of the bfloat16 changes, then the low bytes;
* ``int8-delta``: the scales (float32, one per row of ``planes.rows_of``), then per block the codes;
* a tensor that is not float32: per block its new values as they are.

There is no name, no text and no free field in it. All numbers are little-endian.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stillroom.common.errors import ContractError, TrustError
from stillroom.common.manifest import BLOCK, Manifest, TensorSpec
from stillroom.common.messages import ENCODINGS
from stillroom.common.parts import OVERHEAD, PartReader, PartWriter
from stillroom.common.planes import (
    Block,
    Floats,
    check_scales,
    cuts,
    dequantise,
    from_bfloat16,
    grid,
    join,
    quantise,
    rows_of,
    scales_of,
    split,
    to_bfloat16,
)
from stillroom.common.tensorfile import header
from stillroom.common.weightfile import (
    HashedInput,
    HashedOutput,
    WeightReader,
    check_bools,
    durable_stream,
    file_order,
    plain_blocks,
)

MAGIC = b"STILL\x01\r\n"
"""Format 1. The line end shows a transfer that took the file for text."""
FP32, BF16, INT8 = ENCODINGS


def most_bytes(encoding: str, manifest: Manifest) -> int:
    """Size that no file of this encoding exceeds.

    Raises:
        ValueError: No such encoding.
    """
    if encoding == FP32:
        return len(header(manifest.layout)) + manifest.nbytes
    total = len(MAGIC + bytes([ENCODINGS.index(encoding)]))
    for spec in manifest.tensors:
        rows, length = grid(spec, encoding)
        blocks, size = len(cuts(rows, length)), rows * length
        if spec.dtype != "float32":
            total += blocks * OVERHEAD + spec.nbytes
        elif encoding == BF16:
            total += 2 * blocks * OVERHEAD + 2 * size
        else:
            total += (blocks + len(cuts(1, rows))) * OVERHEAD + size + 4 * rows
    return total


class BlobWriter:
    """Writes one update, tensor by tensor in the order of ``file_order``.

    Args:
        stream: Open for writing; what is written is hashed on the way.
        encoding: One of ``messages.ENCODINGS``.
        manifest: The stage's tensors.
    """

    def __init__(self, stream: BinaryIO, encoding: str, manifest: Manifest) -> None:
        self._out = HashedOutput(stream)
        self._encoding = encoding
        self._left = file_order(manifest)
        self._parts = PartWriter(self._out)
        first = MAGIC + bytes([ENCODINGS.index(encoding)])
        self._out.write(header(manifest.layout) if encoding == FP32 else first)

    def add(self, name: str, value: Block) -> Block:
        """Write one tensor; returns what a reader will decode, whole. Otherwise as ``blocks``."""
        decoded = np.empty(value.shape, value.dtype)
        for start, block in self.blocks(name, value):
            decoded.reshape(-1)[start : start + block.size] = block
        return decoded

    def blocks(self, name: str, value: Block) -> Iterator[tuple[int, Block]]:
        """Write one tensor, block by block as this is iterated, to its end.

        Args:
            name: The next one of ``file_order``.
            value: The whole tensor, C-contiguous. Delta encodings: the change of a float32 tensor,
                with what earlier rounds left over; the new values of any other. What a block stands
                for may be written over once the block is here.

        Yields:
            Flat offset, and what a reader will decode: ``value`` minus this is left over.

        Raises:
            ContractError: STR-302, another tensor is due or it has another shape or dtype;
                STR-303, a change that is not finite or above 1e37.
        """
        due = self._left.pop(0) if self._left else None
        if due is None or (name, value.shape, value.dtype.name) != (due.name, due.shape, due.dtype):
            raise _refused("is not written in the order of its manifest", code="STR-302")
        flat = np.ascontiguousarray(value).reshape(-1)
        if self._encoding == FP32:
            self._out.put(flat)
            yield 0, flat
        elif due.dtype != "float32":
            for start, count in cuts(*grid(due, self._encoding)):
                self._parts.write(flat[start : start + count])
                yield start, flat[start : start + count]
        else:
            yield from (self._bfloat16 if self._encoding == BF16 else self._int8)(due, flat)

    def finish(self) -> tuple[str, int]:
        """SHA-256 and size of the file.

        Raises:
            ContractError: STR-301, tensors are missing.
        """
        if self._left:
            raise _refused("lacks tensors of its manifest", code="STR-301")
        return self._out.finish()

    def _bfloat16(self, spec: TensorSpec, flat: Floats) -> Iterator[tuple[int, Block]]:
        for start, count in cuts(*grid(spec, BF16)):
            codes = to_bfloat16(flat[start : start + count])
            for plane in split(codes):
                self._parts.write(plane)
            yield start, from_bfloat16(codes)

    def _int8(self, spec: TensorSpec, flat: Floats) -> Iterator[tuple[int, Block]]:
        rows, length = rows_of(spec)
        scales = scales_of(flat.reshape(rows, length))
        for start, count in cuts(1, rows):
            self._parts.write(scales[start : start + count])
        for start, count in cuts(rows, length):
            block = flat[start : start + count].reshape(-1, min(length, count))
            own = scales[start // length : start // length + block.shape[0]]
            codes = quantise(block, own)
            self._parts.write(codes.reshape(-1))
            yield start, dequantise(codes, own).reshape(-1)


class BlobReader:
    """Reads one update block by block, and trusts nothing in it.

    Memory is a block, plus the scales of one tensor for ``int8-delta``, whatever the file says.

    Args:
        stream: Open for reading, at the beginning.
        encoding: What the file is said to be; it must agree.
        manifest: The stage's tensors.
        hashed: Whether ``finish`` shall give a digest.

    Raises:
        ContractError: STR-300 or STR-301, it begins as another file does. STR-300 to STR-303
            while it is read: too short, too long, a part that is not one, a value out of range.
    """

    def __init__(
        self, stream: BinaryIO, encoding: str, manifest: Manifest, *, hashed: bool = True
    ) -> None:
        self._encoding, self._manifest = encoding, manifest
        first = MAGIC + bytes([ENCODINGS.index(encoding)])
        self._plain: WeightReader | None = None
        if encoding == FP32:
            self._plain = WeightReader(stream, manifest, hashed=hashed)
            return
        self._input = HashedInput(stream, hashed=hashed)
        self._parts = PartReader(self._input)
        if self._input.take(len(first)) != first:
            raise _refused("is not of the encoding it is said to have")

    def __iter__(self) -> Iterator[tuple[TensorSpec, int, Block]]:
        """Tensor, flat offset and values; a block is valid until the next one is asked for.

        Values are weights for ``fp32``, changes for delta encodings (float32 tensors), and the
        new values of tensors of any other dtype. All float32 changes are finite.
        """
        if self._plain is not None:
            yield from plain_blocks(self._plain, self._manifest)
            return
        for spec in file_order(self._manifest):
            if spec.dtype != "float32":
                read: Callable[[TensorSpec], Iterator[tuple[int, Block]]] = self._values
            else:
                read = self._bfloat16 if self._encoding == BF16 else self._int8
            for start, block in read(spec):
                yield spec, start, block

    def finish(self) -> tuple[str, int]:
        """SHA-256 and size of the file, after the last block.

        Raises:
            ContractError: STR-300, bytes are left.
        """
        return (self._input if self._plain is None else self._plain).finish()

    def _values(self, spec: TensorSpec) -> Iterator[tuple[int, Block]]:
        for start, count in cuts(*grid(spec, self._encoding)):
            block = self._parts.read(count, spec.dtype)
            check_bools(block)
            yield start, block

    def _bfloat16(self, spec: TensorSpec) -> Iterator[tuple[int, Block]]:
        for start, count in cuts(*grid(spec, BF16)):
            high, low = (self._parts.read(count, "uint8") for _ in range(2))
            yield start, from_bfloat16(join(high, low))

    def _int8(self, spec: TensorSpec) -> Iterator[tuple[int, Block]]:
        rows, length = rows_of(spec)
        scales = np.empty(rows, np.float32)
        for start, count in cuts(1, rows):
            scales[start : start + count] = self._parts.read(count, "float32")
        check_scales(scales)
        for start, count in cuts(rows, length):
            codes = self._parts.read(count, "int8").reshape(-1, min(length, count))
            own = scales[start // length : start // length + codes.shape[0]]
            yield start, dequantise(codes, own).reshape(-1)


def apply_delta(
    base: Path,
    blob: BinaryIO,
    encoding: str,
    manifest: Manifest,
    into: Path,
    *,
    expected: str | None = None,
) -> str:
    """Write the model that an encoded change makes of another one.

    ``new = base + change``, one float32 addition per value wherever this is done, so that the
    server and every site hold the same bytes. A weight of -0.0 that does not change becomes 0.0.

    Args:
        base: Plain file of weights.
        blob: The change, open for reading.
        encoding: A delta encoding.
        manifest: The stage's tensors.
        into: Plain file of weights to be written; untouched where this raises. Not forced to the
            disk: it can be made again, and its name tells a later process whether it is whole.
        expected: SHA-256 that the new file must have; whatever it is when left out.

    Returns:
        SHA-256 of the new file.

    Raises:
        ContractError: The blob (see ``BlobReader``) or the base is not what the manifest says.
        TrustError: STR-204, the new file is not the one expected.
    """
    if encoding == FP32:
        raise ValueError("fp32 is not a change")
    changes = BlobReader(blob, encoding, manifest, hashed=False)
    with base.open("rb", buffering=0) as stream, durable_stream(into, sync=False) as target:
        old = WeightReader(stream, manifest, hashed=False)
        out = HashedOutput(target)
        out.write(header(manifest.layout))
        buffer = np.empty(BLOCK * 8, np.uint8)
        for spec, _, block in changes:
            value = buffer[: block.nbytes].view(block.dtype)
            old.read(value)
            if spec.dtype == "float32":
                np.add(value, block, out=value)
                out.put(value)
            else:
                out.put(block)
        old.finish()
        changes.finish()
        found, _ = out.finish()
        if expected not in (None, found):
            raise TrustError(
                "A change of a model does not lead to the model it should.",
                fix="Fetch the whole model instead.",
                code="STR-204",
            )
    return found


def _refused(what: str, code: str = "STR-300") -> ContractError:
    fix = "Check that site and server run the same release."
    return ContractError(f"An encoded update {what}.", fix=fix, code=code)
