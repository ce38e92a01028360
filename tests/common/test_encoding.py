"""Laws of encoded updates: what is lost, what is not, and what is refused."""

import hashlib
import io
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.common.encoding import (
    MAGIC,
    BlobReader,
    BlobWriter,
    apply_delta,
    most_bytes,
)
from stillroom.common.errors import ContractError, StillroomError, TrustError
from stillroom.common.manifest import BLOCK, Manifest, TensorSpec
from stillroom.common.messages import ENCODINGS
from stillroom.common.planes import TINY, from_bfloat16, rows_of, to_bfloat16
from stillroom.common.tensorfile import serialise
from stillroom.common.weightfile import durable_stream, file_blocks, file_order

DELTAS = ENCODINGS[1:]
FUZZ = settings(
    max_examples=int(os.environ.get("STILLROOM_FUZZ_EXAMPLES", "60")),
    deadline=None,
    derandomize="STILLROOM_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

Tensors = dict[str, NDArray[np.generic]]


def manifest_of(tensors: Tensors) -> Manifest:
    return Manifest(
        tensors=tuple(
            TensorSpec(name=name, shape=value.shape, dtype=value.dtype.name, group="g")
            for name, value in tensors.items()
        )
    )


def floats(shapes: dict[str, tuple[int, ...]], seed: int = 0, size: float = 1e-3) -> Tensors:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * size).astype(np.float32)
        for name, shape in shapes.items()
    }


MIXED = {
    "conv.weight": (5, 3, 3, 3, 3),
    "bias": (7,),
    "scale": (),
    "none": (0, 4),
    "narrow": (40, 2),
    "long": (2, BLOCK + 17),
    "many": (BLOCK // 16, 40),
}


def mixed(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return floats(MIXED, seed) | {
        "steps": rng.integers(0, 1000, (3,), np.int64),
        "flags": rng.integers(0, 2, (9,)).astype(np.bool_),
        "half": rng.standard_normal((4, 4)).astype(np.float16),
    }


def encode(tensors: Tensors, encoding: str) -> tuple[bytes, Tensors]:
    """The blob, and what the writer says a reader will see."""
    stream, manifest = io.BytesIO(), manifest_of(tensors)
    writer = BlobWriter(stream, encoding, manifest)
    seen = {s.name: writer.add(s.name, tensors[s.name]) for s in file_order(manifest)}
    digest, nbytes = writer.finish()
    data = stream.getvalue()
    assert (digest, nbytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert nbytes <= most_bytes(encoding, manifest)
    return data, seen


def decode(data: bytes, encoding: str, manifest: Manifest) -> Tensors:
    reader = BlobReader(io.BytesIO(data), encoding, manifest)
    found = {s.name: np.full(s.shape, 99, s.dtype) for s in manifest.tensors}
    for spec, start, block in reader:
        found[spec.name].reshape(-1)[start : start + block.size] = block
    assert reader.finish() == (hashlib.sha256(data).hexdigest(), len(data))
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_reader_sees_what_the_writer_says(encoding: str) -> None:
    """To the bit, for every shape and dtype: the residual is computed from it."""
    tensors = mixed()
    data, seen = encode(tensors, encoding)

    found = decode(data, encoding, manifest_of(tensors))

    for name, value in seen.items():
        assert found[name].tobytes() == value.tobytes(), name
        if encoding == "fp32" or value.dtype != np.float32:
            assert value.tobytes() == tensors[name].tobytes()


def test_fp32_is_a_plain_safetensors_file() -> None:
    """Byte for byte what ``serialise`` writes: one file format for weights at rest and on the way."""
    tensors = mixed()

    assert encode(tensors, "fp32")[0] == serialise(tensors)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e30])
def test_rounding_stays_within_its_bound(size: float) -> None:
    """bfloat16: 2^-8 of the value. int8: half a step of 1/127 of the row's largest."""
    tensors = floats(MIXED, seed=3, size=size)
    _, two = encode(tensors, "bf16-delta")
    _, one = encode(tensors, "int8-delta")

    for spec in manifest_of(tensors).tensors:
        value = tensors[spec.name].astype(np.float64)
        assert np.all(np.abs(two[spec.name] - value) <= 2.0**-8 * np.abs(value) + TINY)
        rows = value.reshape(rows_of(spec))
        step = np.abs(rows).max(axis=1, initial=0, keepdims=True) / 127
        error = np.abs(one[spec.name].reshape(rows.shape) - rows)
        assert np.all(error <= step * (0.5 + 1e-4) + TINY)


def test_bfloat16_rounds_to_nearest_even() -> None:
    """Against the definition, on every tie and its neighbours."""
    high = np.arange(0x0080, 0x7C00, 37, dtype=np.uint32) << 16
    words = np.concatenate([high + low for low in (0, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    values = words.astype(np.uint32).view(np.float32)
    down, up = words >> 16, (words >> 16) + 1
    rest = words & 0xFFFF
    expected = np.where((rest > 0x8000) | ((rest == 0x8000) & (down & 1 == 1)), up, down)

    assert np.array_equal(to_bfloat16(values), expected.astype(np.uint16))
    assert np.array_equal(to_bfloat16(-values), expected.astype(np.uint16) | 0x8000)
    assert np.array_equal(
        from_bfloat16(to_bfloat16(values)), (expected << 16).astype("u4").view("f4")
    )


@pytest.mark.parametrize("encoding", DELTAS)
def test_what_is_too_small_is_zero(encoding: str) -> None:
    """A subnormal number never travels, with either sign."""
    value = np.array([1e-40, -1e-40, 0.0, -0.0, 1e-45], np.float32)
    _, seen = encode({"w": value}, encoding)

    assert seen["w"].tobytes() == bytes(20)


@pytest.mark.parametrize("encoding", DELTAS)
def test_nothing_is_lost_over_rounds(encoding: str) -> None:
    """Error feedback telescopes: what was decoded in all = what changed in all - last residual."""
    residual = np.zeros((6, 50), np.float32)
    total, decoded = np.zeros((6, 50)), np.zeros((6, 50))
    for seed in range(30):
        change = floats({"w": (6, 50)}, seed)["w"]
        total += change
        value = change + residual
        seen = encode({"w": value}, encoding)[1]["w"]
        decoded += seen
        residual = value - seen

    np.testing.assert_allclose(decoded, total - residual, rtol=0, atol=30 * 1e-9)
    assert np.abs(residual).max() < 1e-4


def test_what_was_written_may_be_written_over() -> None:
    """Block by block: what is left of a change takes its place, and nothing else changes."""
    for encoding in DELTAS:
        value = floats({"w": (3, BLOCK + 5)})["w"]
        data, expected = encode({"w": value}, encoding)
        left, stream, manifest = value.copy().reshape(-1), io.BytesIO(), manifest_of({"w": value})
        writer = BlobWriter(stream, encoding, manifest)

        for start, block in writer.blocks("w", left.reshape(value.shape)):
            assert block.size <= BLOCK
            left[start : start + block.size] -= block

        assert stream.getvalue() == data
        assert left.tobytes() == (value - expected["w"]).tobytes()


@pytest.mark.parametrize("encoding", DELTAS)
def test_applying_a_change_is_one_addition(encoding: str, tmp_path: Path) -> None:
    """Bit for bit NumPy's ``base + decoded``, in the layout of ``serialise``; sites and server agree."""
    base, change = mixed(1), mixed(2)
    manifest = manifest_of(base)
    (tmp_path / "base").write_bytes(serialise(base))
    data, seen = encode(change, encoding)

    digest = apply_delta(tmp_path / "base", io.BytesIO(data), encoding, manifest, tmp_path / "new")

    expected = serialise(
        {n: base[n] + seen[n] if base[n].dtype == np.float32 else seen[n] for n in base}
    )
    assert (tmp_path / "new").read_bytes() == expected
    assert digest == hashlib.sha256(expected).hexdigest()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "new"}


def test_a_change_that_leads_elsewhere_leaves_no_file(tmp_path: Path) -> None:
    """Another digest than expected, or a blob cut short: the old file stays as it was."""
    base = floats({"w": (4, 20)})
    (tmp_path / "base").write_bytes(serialise(base))
    (tmp_path / "new").write_bytes(b"old")
    data, _ = encode(base, "bf16-delta")

    def apply(blob: bytes) -> None:
        apply_delta(
            tmp_path / "base",
            io.BytesIO(blob),
            "bf16-delta",
            manifest_of(base),
            tmp_path / "new",
            expected="0" * 64,
        )

    with pytest.raises(TrustError) as caught:
        apply(data)
    with pytest.raises(ContractError):
        apply(data[:-1])

    assert caught.value.code == "STR-204"
    assert (tmp_path / "new").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


SMALL = {"conv.weight": (4, 30), "bias": (5,), "w": (BLOCK // 8, 9)}


def repeating() -> Tensors:
    """Tensors with planes that are packed and planes that are not."""
    tensors = floats(SMALL, seed=7)
    tensors["w"][::2] = 0
    return tensors | {"steps": np.array([1, 2], np.int64)}


@pytest.mark.parametrize("encoding", ENCODINGS)
@FUZZ
@given(data=st.data())
def test_damage_is_noticed(encoding: str, data: st.DataObject) -> None:
    """A cut, a flipped bit, extra bytes: refused while reading, or seen in the digest."""
    tensors = repeating()
    manifest = manifest_of(tensors)
    blob, _ = encode(tensors, encoding)
    kind = data.draw(st.sampled_from(["cut", "flip", "extra", "insert"]))
    at = data.draw(st.integers(0, len(blob) - 1))
    if kind == "cut":
        bad = blob[:at]
    elif kind == "flip":
        bad = blob[:at] + bytes([blob[at] ^ (1 << data.draw(st.integers(0, 7)))]) + blob[at + 1 :]
    else:
        more = data.draw(st.binary(min_size=1, max_size=20))
        bad = blob + more if kind == "extra" else blob[:at] + more + blob[at:]
    code = ""
    tracemalloc.start()
    try:
        reader = BlobReader(io.BytesIO(bad), encoding, manifest)
        for _, _, block in reader:
            if encoding != "fp32":
                assert block.dtype != np.float32 or np.isfinite(block).all()
        digest, nbytes = reader.finish()
        assert kind in {"flip", "insert"}
        assert digest != hashlib.sha256(blob).hexdigest()
        assert nbytes == len(bad)
    except StillroomError as error:
        code = error.code
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert code in {"", "STR-300", "STR-301", "STR-302", "STR-303"}
    assert most < 4 << 20


@FUZZ
@given(noise=st.binary(max_size=300), encoding=st.sampled_from(DELTAS))
def test_noise_behind_a_valid_beginning_is_refused(noise: bytes, encoding: str) -> None:
    """Whatever follows the magic: an error of ours, never another one."""
    blob = MAGIC + bytes([ENCODINGS.index(encoding)]) + noise
    with pytest.raises(StillroomError):
        decode(blob, encoding, manifest_of(floats({"w": (64, 40), "bias": (3,)})))


def part(method: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BI", method, len(data) if length is None else length) + data


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(size))


def streamed(size: int) -> bytes:
    """A frame that does not say how large its content is."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(bytes(size)) + packer.flush()


N = 20_000
FRAMES = {
    "a gigabyte announced": part(1, bytes.fromhex("28b52ffda0") + struct.pack("<I", 1 << 30)),
    "more than the plane": part(1, bomb(64 << 20)),
    "less than the plane": part(1, bomb(N - 1)),
    "no size said": part(1, streamed(N)),
    "two frames": part(1, bomb(N) + bomb(N)),
    "a frame and a skippable one": part(1, bomb(N) + struct.pack("<II", 0x184D2A50, 3) + b"abc"),
    "a skippable frame alone": part(1, struct.pack("<II", 0x184D2A50, 3) + b"abc"),
    "an unknown method": part(2, bytes(N)),
    "packed and not smaller": part(1, bytes(N)),
    "raw and shorter": part(0, bytes(N - 1)),
    "a length of 4 GiB": part(0, b"", 0xFFFFFFFF),
    "a packed length of 4 GiB": part(1, b"", 0xFFFFFFFF),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_hostile_frames(frame: str) -> None:
    """Refused by what the manifest says, before anything of the announced size is allocated."""
    manifest = manifest_of({"w": np.zeros(N, np.float32)})
    blob = MAGIC + b"\x01" + FRAMES[frame] + part(0, bytes(N))
    tracemalloc.start()

    with pytest.raises(ContractError) as caught:
        decode(blob, "bf16-delta", manifest)

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "STR-300"
    assert most < 1 << 20


def test_an_honest_frame_passes_the_same_door() -> None:
    """The cases above are refused for what is wrong in them."""
    manifest = manifest_of({"w": np.zeros(N, np.float32)})
    blob = MAGIC + b"\x01" + part(1, bomb(N)) + part(0, bytes(N))

    assert not decode(blob, "bf16-delta", manifest)["w"].any()


@pytest.mark.parametrize("code", [0x7F80, 0xFF80, 0x7FC1, 0x0001, 0x807F, 0x8000, 0x7E00])
def test_numbers_no_writer_makes_in_two_bytes(code: int) -> None:
    """Infinity, NaN, subnormals, a negative zero and absurd sizes."""
    blob = MAGIC + b"\x01" + part(0, bytes([code >> 8])) + part(0, bytes([code & 0xFF]))

    with pytest.raises(ContractError) as caught:
        decode(blob, "bf16-delta", manifest_of({"w": np.zeros(1, np.float32)}))

    assert caught.value.code == "STR-303"


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 1e-40, -0.0, 1e37])
def test_scales_no_writer_makes(scale: float) -> None:
    """They must be zero, or normal, positive and plausible."""
    blob = MAGIC + b"\x02" + part(0, np.float32(scale).tobytes()) + part(0, b"\x01")

    with pytest.raises(ContractError) as caught:
        decode(blob, "int8-delta", manifest_of({"w": np.zeros(1, np.float32)}))

    assert caught.value.code == "STR-303"


def test_a_code_no_writer_makes() -> None:
    """-128 is outside the symmetric range."""
    blob = MAGIC + b"\x02" + part(0, np.float32(1).tobytes()) + part(0, b"\x80")

    with pytest.raises(ContractError):
        decode(blob, "int8-delta", manifest_of({"w": np.zeros(1, np.float32)}))


def test_a_truth_value_is_0_or_1() -> None:
    """Any other byte would travel on inside an array of bools."""
    manifest = manifest_of({"w": np.zeros(2, np.bool_)})
    plain = bytearray(serialise({"w": np.zeros(2, np.bool_)}))
    plain[-1] = 2

    for blob, encoding in (
        (bytes(plain), "fp32"),
        (MAGIC + b"\x01" + part(0, b"\x00\x02"), "bf16-delta"),
    ):
        with pytest.raises(ContractError) as caught:
            decode(blob, encoding, manifest)
        assert caught.value.code == "STR-302"


@pytest.mark.parametrize("encoding", DELTAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e37, -3e38])
def test_the_writer_refuses_what_is_no_change(encoding: str, bad: float) -> None:
    """Rather than pass it on as something else."""
    value = np.zeros((2, 20), np.float32)
    value[1, 3] = bad

    with pytest.raises(ContractError) as caught:
        encode({"w": value}, encoding)

    assert caught.value.code == "STR-303"


def test_the_writer_keeps_to_its_manifest() -> None:
    """Every tensor once, in order, in its shape and dtype."""
    tensors = floats({"a": (3,), "b": (2,)})
    manifest = manifest_of(tensors)
    for name, value in (
        ("b", tensors["b"]),
        ("a", tensors["a"].astype(np.float64)),
        ("a", tensors["a"][:2]),
    ):
        with pytest.raises(ContractError):
            BlobWriter(io.BytesIO(), "fp32", manifest).add(name, value)
    short = BlobWriter(io.BytesIO(), "int8-delta", manifest)
    short.add("a", tensors["a"])
    with pytest.raises(ContractError) as caught:
        short.finish()

    assert caught.value.code == "STR-301"


@pytest.mark.parametrize("written", ENCODINGS)
@pytest.mark.parametrize("read", ENCODINGS)
def test_a_file_says_its_encoding(written: str, read: str) -> None:
    """One that is not what it is said to be is refused at its first bytes."""
    tensors = floats({"a": (3, 40)})
    data, _ = encode(tensors, written)
    if written == read:
        decode(data, read, manifest_of(tensors))
        return
    with pytest.raises(ContractError):
        BlobReader(io.BytesIO(data), read, manifest_of(tensors))


def test_an_unknown_encoding_is_our_own_mistake() -> None:
    """Names are checked where messages are read."""
    manifest = manifest_of(floats({"a": (3,)}))
    for use in (
        lambda: most_bytes("fp8", manifest),
        lambda: BlobWriter(io.BytesIO(), "fp8", manifest),
        lambda: BlobReader(io.BytesIO(), "fp8", manifest),
        lambda: apply_delta(Path(), io.BytesIO(), "fp32", manifest, Path()),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            use()


# A tenth of SwinUNETR-48's channels: the same kinds of tensors, the small ones over-represented.
SWIN = {
    "encoder.conv.weight": (77, 77, 3, 3, 3),
    "decoder.conv.weight": (38, 154, 3, 3, 3),
    "stage.mlp.weight": (307, 77),
    "stage.qkv.weight": (231, 77),
    "stage.norm.weight": (77,),
    "up.weight": (154, 77, 2, 2, 2),
    "head.bias": (14,),
}


@pytest.mark.parametrize(
    ("encoding", "share"), [("fp32", 1.01), ("bf16-delta", 0.51), ("int8-delta", 0.26)]
)
def test_size_of_changes_that_do_not_pack(encoding: str, share: float) -> None:
    """Overhead included, on bytes without any pattern: the worst case, not a lucky one."""
    rng = np.random.default_rng(5)
    tensors: Tensors = {}
    for name, shape in SWIN.items():
        value = np.exp2(rng.uniform(-100, 100, shape)) * rng.choice([-1, 1], shape)
        if encoding == "int8-delta":
            value = rng.uniform(-1, 1, shape)
        tensors[name] = value.astype(np.float32)
    data, _ = encode(tensors, encoding)

    assert len(data) <= share * manifest_of(tensors).nbytes


def test_changes_of_training_pack_further() -> None:
    """Normal numbers, as changes of weights are: a third and under a quarter of float32."""
    tensors = floats(SWIN, seed=1, size=1e-3)
    whole = manifest_of(tensors).nbytes

    assert len(encode(tensors, "bf16-delta")[0]) < 0.36 * whole
    assert len(encode(tensors, "int8-delta")[0]) < 0.24 * whole
    nothing = {name: np.zeros_like(value) for name, value in tensors.items()}
    assert len(encode(nothing, "int8-delta")[0]) < 0.001 * whole


def test_a_reader_holds_a_block(tmp_path: Path) -> None:
    """Memory does not grow with the model, in any encoding."""
    tensors = floats({"w": (64, 1 << 16)})  # 16 MiB
    manifest = manifest_of(tensors)
    for encoding in ENCODINGS:
        (tmp_path / "blob").write_bytes(encode(tensors, encoding)[0])
        with (tmp_path / "blob").open("rb", buffering=0) as stream:
            tracemalloc.start()
            for _ in BlobReader(stream, encoding, manifest):
                pass
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert most < 2 << 20


def test_plain_files_are_walked_in_their_order(tmp_path: Path) -> None:
    """Block by block, the same values as ``serialise`` was given."""
    tensors = mixed()
    manifest = manifest_of(tensors)
    (tmp_path / "w").write_bytes(serialise(tensors))

    found = {s.name: np.zeros(s.shape, s.dtype) for s in manifest.tensors}
    for spec, start, block in file_blocks(tmp_path / "w", manifest):
        found[spec.name].reshape(-1)[start : start + block.size] = block

    for name, value in tensors.items():
        assert found[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("damage", ["short", "long", "other"])
def test_plain_files_with_another_layout(damage: str, tmp_path: Path) -> None:
    """Too short, too long, or another header: refused."""
    tensors = floats({"a": (3, 40)})
    data = serialise(tensors)
    bad = {
        "short": data[:-1],
        "long": data + b"\0",
        "other": serialise({"b": tensors["a"]}),
    }[damage]
    (tmp_path / "w").write_bytes(bad)

    with pytest.raises(ContractError):
        list(file_blocks(tmp_path / "w", manifest_of(tensors)))


def test_a_durable_stream_is_all_or_nothing(tmp_path: Path) -> None:
    """A block that raises leaves what was there before, and no rest beside it."""
    path = tmp_path / "file"
    with durable_stream(path) as stream:
        stream.write(b"one")

    with pytest.raises(RuntimeError), durable_stream(path) as stream:  # noqa: PT012
        stream.write(b"two")
        raise RuntimeError

    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
