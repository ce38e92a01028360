"""Plain files of weights, read and written a block at a time.

The layout is ``tensorfile.serialise``'s: a safetensors header, then every tensor's bytes in the
header's order. A file may be far larger than the memory at hand.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import BLOCK, Manifest, TensorSpec
from stillroom.common.tensorfile import header

Block = NDArray[Any]


class HashedInput:
    """A stream of which every byte read is hashed and none is read twice.

    Args:
        stream: Open for reading, at the beginning.
        hashed: Whether the digest is wanted: it takes longer than the reading.
    """

    def __init__(self, stream: BinaryIO, *, hashed: bool = True) -> None:
        self._stream = stream
        self._hash = hashlib.sha256() if hashed else None
        self.nbytes = 0

    def fill(self, into: memoryview) -> None:
        """Read exactly ``into``'s bytes.

        Raises:
            ContractError: STR-300, the stream is shorter.
        """
        got = 0
        while got < into.nbytes:
            more: int = self._stream.readinto(into[got:])  # type: ignore[attr-defined]  # files have it
            if not more:
                raise _other_layout("ends too early")
            got += more
        if self._hash is not None:
            self._hash.update(into)
        self.nbytes += got

    def take(self, count: int) -> bytearray:
        """The next ``count`` bytes; raises as ``fill`` does."""
        data = bytearray(count)
        self.fill(memoryview(data))
        return data

    def finish(self) -> tuple[str, int]:
        """SHA-256 (empty where none was wanted) and size of what was read.

        Raises:
            ContractError: STR-300, bytes are left.
        """
        if self._stream.read(1):
            raise _other_layout("goes on after its last tensor")
        return "" if self._hash is None else self._hash.hexdigest(), self.nbytes


class HashedOutput:
    """A stream of which every byte written is hashed.

    Args:
        stream: Open for writing.
        hashed: Whether the digest is wanted.
    """

    def __init__(self, stream: BinaryIO, *, hashed: bool = True) -> None:
        self._stream = stream
        self._hash = hashlib.sha256() if hashed else None
        self.nbytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        view = memoryview(data)
        if self._hash is not None:
            self._hash.update(view)
        self.nbytes += view.nbytes
        done = 0
        while done < view.nbytes:  # An unbuffered file may take less than it is given.
            done += self._stream.write(view[done:])

    def put(self, block: Block) -> None:
        """Append an array's bytes."""
        self.write(raw_bytes(np.ascontiguousarray(block)))

    def finish(self) -> tuple[str, int]:
        """SHA-256 (empty where none was wanted) and size of what was written."""
        return "" if self._hash is None else self._hash.hexdigest(), self.nbytes


def raw_bytes(block: Block) -> memoryview:
    """A contiguous array's bytes, not copied."""
    return block.reshape(-1).view(np.uint8).data


def file_order(manifest: Manifest) -> list[TensorSpec]:
    """The manifest's tensors as a file holds them: wider dtypes first, then by name."""
    found = {spec.name: spec for spec in manifest.tensors}
    # Read from the header itself: it is what the other side compares.
    return [found[name] for name in json.loads(header(manifest.layout)[8:])]


class WeightReader:
    """Reads a file of weights, checking that its layout is the manifest's.

    Args:
        stream: Open for reading, at the beginning.
        manifest: What the file must hold.
        hashed: Whether ``finish`` shall give a digest.

    Raises:
        ContractError: STR-301, another header than the manifest's.
    """

    def __init__(self, stream: BinaryIO, manifest: Manifest, *, hashed: bool = True) -> None:
        self._input = HashedInput(stream, hashed=hashed)
        expected = header(manifest.layout)
        if self._input.take(len(expected)) != expected:
            raise _other_layout("begins with another header", code="STR-301")

    def read(self, into: Block) -> None:
        """The next ``into.size`` values of the file's sequence; STR-300 when it is too short."""
        if into.size:
            self._input.fill(raw_bytes(into))
        check_bools(into)

    def finish(self) -> tuple[str, int]:
        """SHA-256 and size; STR-300 when bytes are left."""
        return self._input.finish()


def check_bools(block: Block) -> None:
    """Refuse bytes that are no truth value: NumPy would carry them along as they are.

    Raises:
        ContractError: STR-302.
    """
    if block.dtype == np.bool_ and block.size and block.view(np.uint8).max() > 1:
        raise _other_layout("has a truth value that is neither 0 nor 1", code="STR-302")


def file_blocks(path: Path, manifest: Manifest) -> Iterator[tuple[TensorSpec, int, Block]]:
    """Tensor, flat offset and values of every block of a file of weights, in its order.

    A block is valid until the next one is asked for: the buffer is the same.

    Raises:
        ContractError: STR-300, STR-301: its layout is not the manifest's.
    """
    with path.open("rb", buffering=0) as stream:
        reader = WeightReader(stream, manifest, hashed=False)
        yield from plain_blocks(reader, manifest)
        reader.finish()


def plain_blocks(
    reader: WeightReader, manifest: Manifest
) -> Iterator[tuple[TensorSpec, int, Block]]:
    """What ``file_blocks`` yields, from an open reader that is left to be finished."""
    buffer = np.empty(BLOCK * 8, np.uint8)
    for spec in file_order(manifest):
        dtype, size = np.dtype(spec.dtype), math.prod(spec.shape)
        for start in range(0, size, BLOCK):
            count = min(BLOCK, size - start)
            block = buffer[: count * dtype.itemsize].view(dtype)
            reader.read(block)
            yield spec, start, block


@contextmanager
def durable_stream(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A stream whose bytes become ``path`` when the block ends well: all of them or none.

    Written beside it, fsynced, renamed, folder fsynced: after a crash the old file is there or the
    new one. A block that raises leaves nothing.

    Args:
        path: The file.
        sync: Whether it shall survive a power cut. Without, the death of a process still costs
            nothing, but whoever comes after a power cut has to look at the bytes.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb", buffering=0) as stream:
            yield stream
            if sync:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(path.parent)


def settle(path: Path, name: str) -> Path:
    """Give a durable file its name, durably; whatever had that name before is replaced."""
    target = path.with_name(name)
    os.replace(path, target)
    _sync_folder(path.parent)
    return target


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _other_layout(what: str, code: str = "STR-300") -> ContractError:
    return ContractError(
        f"A file of weights {what}.",
        fix="Check that site and server run the same release.",
        code=code,
    )
