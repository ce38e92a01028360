"""Weights on disk: safetensors files named by the digest of their bytes. NumPy only."""

import contextlib
import hashlib
import json
import math
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stillroom.common.errors import TrustError
from stillroom.common.manifest import Weights

_DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""NumPy name -> safetensors name, in the order in which safetensors writes them."""
PIECE = 1 << 20
"""Bytes hashed and written in one go."""
MAX_HEADER = 1 << 20
"""Bytes of the largest header a peer may send; a model of 1 000 tensors has about 100 KiB."""


def write_weights(folder: Path, weights: Weights, *, wait: bool = True) -> str:
    """Store ``weights`` as ``<folder>/<sha256>.safetensors`` and return the digest.

    Temp, fsync, rename: after a crash the file is whole or absent, and its name says which
    bytes it must hold. Written and hashed piece by piece: no second copy in memory.

    Args:
        folder: Made where there is none.
        weights: Name -> array.
        wait: For the disk. Without, the disk gets it at once all the same, in a thread; a power
            cut before that leaves a file whose bytes are not what its name says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = hashlib.sha256()
    # Its writer's own name: two processes may write the same weights at once.
    temporary = folder / f".{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with temporary.open("wb") as stream:
            for piece in _pieces(weights):
                stream.write(piece)
                running.update(piece)
            stream.flush()
            if wait:
                os.fsync(stream.fileno())
        path = folder / f"{running.hexdigest()}.safetensors"
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if wait:
        _sync_folder(folder)
    else:
        threading.Thread(target=_sync, args=(path,), daemon=True).start()
    return running.hexdigest()


def _sync(path: Path) -> None:
    """Have a file and its name on the disk; a file that is gone again needs nothing."""
    with contextlib.suppress(OSError):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        _sync_folder(path.parent)


def weights_digest(weights: Weights) -> str:
    """The name ``write_weights`` would give: SHA-256 of the safetensors bytes."""
    running = hashlib.sha256()
    for piece in _pieces(weights):
        running.update(piece)
    return running.hexdigest()


def _pieces(weights: Weights) -> Iterator[memoryview]:
    """What ``serialise`` returns, in pieces of at most 1 MiB that alias the arrays."""
    layout = {name: (value.dtype.name, value.shape) for name, value in weights.items()}
    head = header(layout)
    yield memoryview(head)
    for name in json.loads(head[8:]):
        value = np.asarray(weights[name], order="C")
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        data = little.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]


def read_weights(folder: Path, digest: str) -> dict[str, NDArray[np.float32]]:
    """Weights written by ``write_weights``.

    Raises:
        TrustError: STR-204 when the file is absent or its bytes have another digest.
    """
    path = folder / f"{digest}.safetensors"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TrustError(
            f"Weights {digest[:12]} are not in {folder}.",
            fix="Prepare the study again, or restore the folder.",
            code="STR-204",
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise TrustError(
            f"The file of weights {digest[:12]} holds other bytes than its name says.",
            fix="Restore it from a copy; do not use it.",
            code="STR-204",
        )
    return parse(data)


def serialise(weights: Weights) -> bytes:
    """``weights`` as the bytes of a safetensors file; equal weights give equal bytes."""
    data: bytes = save({name: np.asarray(v, order="C") for name, v in weights.items()})
    return data


def parse(data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors in the bytes of a safetensors file. Runs no code, whatever the bytes are.

    Raises:
        ValueError: They are not a safetensors file.
    """
    try:
        return dict(load(data))
    except (SafetensorError, KeyError) as error:
        raise ValueError("not a safetensors file") from error


def header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The one header that ``serialise`` writes for tensors of this layout, length included.

    Args:
        tensors: Name -> (NumPy dtype name, shape).

    Raises:
        KeyError: A dtype that safetensors files of ours never hold.
    """
    rank = {dtype: number for number, dtype in enumerate(_DTYPES)}
    entries, start = {}, 0
    for name in sorted(tensors, key=lambda item: (rank[tensors[item][0]], item.encode())):
        dtype, shape = tensors[name]
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        entries[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def views(data: bytes) -> dict[str, NDArray[Any]]:
    """Read-only views of the tensors in a safetensors file, for bytes that a peer sent.

    Stricter than ``parse``: the file must be, to the last byte of its header, what ``serialise``
    writes. So no second tensor of a name, no gap between tensors, no metadata and no white
    space can carry anything, and a header is bounded before it is read.

    Raises:
        ValueError: It is not such a file. The text never quotes the file.
    """
    tensors = layout(data)
    at = len(header(tensors))
    end = at + sum(math.prod(s) * np.dtype(d).itemsize for d, s in tensors.values())
    if end != len(data):
        raise ValueError("the header is not the one these tensors have")
    found = {}
    for name, (dtype, shape) in tensors.items():
        count = math.prod(shape)
        found[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * np.dtype(dtype).itemsize
    return found


def layout(data: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> dtype and shape as the header of a file says them, in the file's order.

    Args:
        data: The file's first bytes: its whole header, or more.

    Raises:
        ValueError: The header is not, to its last byte, one that ``serialise`` writes.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER, len(data) - 8):
        raise ValueError("the header is not within its bounds")
    try:
        found = _layout(json.loads(data[8 : 8 + size].decode("utf-8")))
        canonical = header(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("the header is not one of ours") from error
    if data[: 8 + size] != canonical:
        raise ValueError("the header is not the one these tensors have")
    return found


def _layout(entries: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> dtype and shape as a header says them, in its order."""
    names = {short: long for long, short in _DTYPES.items()}
    layout = {name: (names[e["dtype"]], tuple(e["shape"])) for name, e in entries.items()}
    if not all(type(n) is int and 0 <= n < 2**40 for _, shape in layout.values() for n in shape):
        raise ValueError("a size is not a size")
    return layout


def mapped(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, NDArray[Any]]:
    """The tensors of a file as ``serialise`` writes them, read from disk as they are used.

    The arrays may be written into: what is written is the caller's own, the file stays as it is.
    They live on when the file is removed.

    Args:
        path: The file.
        tensors: Name -> (NumPy dtype name, shape), all of them.

    Raises:
        OSError: It cannot be read.
        ValueError: Its header or its length is not the one that these tensors have.
    """
    head = header(tensors)
    size = len(head) + sum(math.prod(s) * np.dtype(d).itemsize for d, s in tensors.values())
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size != size or stream.read(len(head)) != head:
            raise ValueError("not a file of these tensors")
        data = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY)
    found = {}
    for name, entry in json.loads(head[8:]).items():
        dtype, shape = tensors[name]
        start = len(head) + entry["data_offsets"][0]
        found[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
    return found


def write_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: written beside it, fsynced, renamed, folder fsynced."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
