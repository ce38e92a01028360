"""Weights on disk: safetensors files named by the digest of their bytes. NumPy only."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stillroom.common.errors import TrustError
from stillroom.common.manifest import Weights


def write_weights(folder: Path, weights: Weights) -> str:
    """Store ``weights`` as ``<folder>/<sha256>.safetensors`` and return the digest.

    Temp, fsync, rename: after a crash the file is whole or absent, and its name says which
    bytes it must hold.
    """
    data = serialise(weights)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{digest}.safetensors", data)
    return digest


def weights_digest(weights: Weights) -> str:
    """The name ``write_weights`` would give: SHA-256 of the safetensors bytes."""
    return hashlib.sha256(serialise(weights)).hexdigest()


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


def write_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: written beside it, fsynced, renamed, folder fsynced."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
