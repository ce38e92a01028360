"""Weights on disk: whole or absent, and exactly what their name says."""

import contextlib
import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.common import tensorfile
from stillroom.common.errors import TrustError
from stillroom.common.tensorfile import (
    mapped,
    parse,
    read_weights,
    serialise,
    weights_digest,
    write_durably,
    write_weights,
)

WEIGHTS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float32(4).reshape(()),
    "empty": np.zeros((0, 3), np.float32),
    "b": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
}


def test_round_trip(tmp_path: Path) -> None:
    """What is read is what was written, whatever its memory layout or shape."""
    name = write_weights(tmp_path, WEIGHTS)
    back = read_weights(tmp_path, name)

    assert back.keys() == WEIGHTS.keys()
    for key, value in WEIGHTS.items():
        np.testing.assert_array_equal(back[key], value)
        assert back[key].shape == value.shape
    assert name == weights_digest(WEIGHTS)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.safetensors"]


def test_order_of_names_does_not_change_the_digest() -> None:
    """Equal weights are one artefact, in whatever order a dict holds them."""
    assert weights_digest(WEIGHTS) == weights_digest(dict(reversed(WEIGHTS.items())))


@given(st.integers(0, 200))
def test_one_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, at: int) -> None:
    """No byte of the file is outside its digest."""
    folder = tmp_path_factory.mktemp("weights")
    name = write_weights(folder, WEIGHTS)
    path = folder / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)

    with pytest.raises(TrustError) as caught:
        read_weights(folder, name)

    assert caught.value.code == "STR-204"


def test_missing_or_truncated(tmp_path: Path) -> None:
    """An absent file and a half copied one are both refused."""
    name = write_weights(tmp_path, WEIGHTS)
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    for wanted in (name, "0" * 64):
        with pytest.raises(TrustError) as caught:
            read_weights(tmp_path, wanted)
        assert caught.value.code == "STR-204"


def test_nobody_has_to_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk gets the file all the same, in a thread, and what is read meanwhile is whole."""
    synced, waiting = threading.Event(), threading.get_ident()

    def fsync(_descriptor: int) -> None:
        assert threading.get_ident() != waiting
        synced.set()

    monkeypatch.setattr(os, "fsync", fsync)
    weights = {"w": np.arange(5, dtype=np.float32)}

    digest = write_weights(tmp_path, weights, wait=False)

    np.testing.assert_array_equal(read_weights(tmp_path, digest)["w"], weights["w"])
    assert synced.wait(10)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whoever reads after a crash finds the last complete state."""
    path = tmp_path / "state.json"
    write_durably(path, b"old")

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(tensorfile.os, moment, crash)
    with pytest.raises(OSError, match="power cut"):
        write_durably(path, b"new, and much longer")
    monkeypatch.undo()

    assert path.read_bytes() == b"old"
    write_durably(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def header(value: object, tail: bytes = b"") -> bytes:
    """A safetensors file with a header of the attacker's choice."""
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + tail


HOSTILE = {
    "empty": b"",
    "short": b"\x01",
    "text": b"not a tensor file at all",
    "truncated": serialise(WEIGHTS)[:-3],
    "header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "huge header": struct.pack("<Q", 2**27) + b" " * 1000,
    "header is no object": header([1, 2]),
    "offsets behind the end": header(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    ),
    "shape without bytes": header(
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 0]}}
    ),
    "shape that overflows": header(
        {"a": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "negative shape": header(
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "unknown dtype": header(
        {"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "dtype that numpy lacks": header(
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_a_value_error(name: str) -> None:
    """Whatever the bytes are, the answer is one refusal: no other exception, no code run."""
    with pytest.raises(ValueError, match="not a safetensors file"):
        parse(HOSTILE[name])


@given(st.binary(max_size=300))
def test_random_bytes_never_escape(data: bytes) -> None:
    """Noise is either a tensor file or a ValueError."""
    with contextlib.suppress(ValueError):
        parse(data)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"scalar": np.ones((), np.float32), "empty": np.zeros((0, 3), np.float32)},
        {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.ones(3, np.bool_)},
        {"big": np.ones(300_000, np.float32), 'é"': np.ones(3, ">f4").astype(np.float16)},
    ],
)
def test_files_are_written_in_pieces_of_the_same_bytes(
    tmp_path: Path, weights: dict[str, NDArray[Any]]
) -> None:
    """What is written piece by piece is what is serialised whole, and nothing is left beside it."""
    name = write_weights(tmp_path, weights)

    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.safetensors"]
    assert (tmp_path / f"{name}.safetensors").read_bytes() == serialise(weights)
    assert weights_digest(weights) == name


LAYOUT = {name: (value.dtype.name, value.shape) for name, value in WEIGHTS.items()}


def test_a_mapped_file_is_the_readers_to_write_into(tmp_path: Path) -> None:
    """What is read is what was written; what the reader then writes changes neither file nor others."""
    path = tmp_path / f"{write_weights(tmp_path, WEIGHTS)}.safetensors"
    before = path.read_bytes()
    found, other = mapped(path, LAYOUT), mapped(path, LAYOUT)

    assert found.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(found[name], value)
    found["a"] += 1
    assert path.read_bytes() == before
    np.testing.assert_array_equal(other["a"], WEIGHTS["a"])
    path.unlink()
    np.testing.assert_array_equal(other["b"], WEIGHTS["b"])


@pytest.mark.parametrize("damage", ["longer", "shorter", "header", "other tensors", "empty"])
def test_a_file_of_other_tensors_is_not_mapped(tmp_path: Path, damage: str) -> None:
    """Header and length are looked at before anything is read."""
    path = tmp_path / f"{write_weights(tmp_path, WEIGHTS)}.safetensors"
    data = path.read_bytes()
    changes = {
        "longer": data + b"x",
        "shorter": data[:-1],
        "header": data[:20] + b"#" + data[21:],
        "other tensors": serialise({**WEIGHTS, "a": WEIGHTS["a"].reshape(3, 2)}),
        "empty": b"",
    }
    path.write_bytes(changes[damage])

    with pytest.raises(ValueError, match="not a file of these tensors"):
        mapped(path, LAYOUT)
