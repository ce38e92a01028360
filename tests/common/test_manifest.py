"""Only the manifest's tensors cross: everything else is refused by name and without its values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, TensorSpec

MANIFEST = Manifest(
    tensors=(
        TensorSpec(name="trunk.weight", shape=(3, 2), dtype="float32", group="trunk"),
        TensorSpec(name="trunk.bias", shape=(3,), dtype="float32", group="trunk"),
        TensorSpec(name="head.weight", shape=(1, 3), dtype="float32", group="head"),
    )
)
NAMES = [spec.name for spec in MANIFEST.tensors]


def update() -> dict[str, NDArray[np.float32]]:
    """Weights that pass."""
    return {spec.name: np.full(spec.shape, 0.5, np.float32) for spec in MANIFEST.tensors}


def refused(weights: dict[str, NDArray[np.float32]], *, max_norm: float = 100.0) -> ContractError:
    with pytest.raises(ContractError) as caught:
        MANIFEST.check(weights, max_norm=max_norm)
    assert caught.value.fix
    return caught.value


def test_exact_update_passes() -> None:
    """The manifest's own tensors pass, in whatever order they come."""
    MANIFEST.check(dict(reversed(update().items())), max_norm=100.0)


def test_sizes_and_groups() -> None:
    """Bytes are those of the arrays; groups come in order of first appearance."""
    assert MANIFEST.nbytes == 4 * (6 + 3 + 3)
    assert MANIFEST.groups == ("trunk", "head")


@given(st.sampled_from(NAMES), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 2))
def test_one_bad_element_is_enough(name: str, value: float, at: int) -> None:
    """NaN or infinity anywhere is refused, and the tensor is named."""
    weights = update()
    weights[name].reshape(-1)[at] = value

    error = refused(weights, max_norm=math.inf)

    assert error.code == "STR-303"
    assert name in error.what


@given(st.sampled_from(NAMES), st.sampled_from([1e30, -1e30, 3.4e38]))
def test_huge_but_finite_is_refused_by_its_norm(name: str, value: float) -> None:
    """A value that would drown every other site's is out of bounds, not averaged."""
    weights = update()
    weights[name][...] = value

    assert refused(weights, max_norm=1e6).code == "STR-303"


def test_norm_counts_all_tensors_together() -> None:
    """Three tensors that pass one by one can be too much together."""
    norm = math.sqrt(12 * 0.25)

    MANIFEST.check(update(), max_norm=norm + 1e-9)
    assert refused(update(), max_norm=norm - 1e-9).code == "STR-303"


@given(st.sampled_from(NAMES))
def test_missing_tensor(name: str) -> None:
    """An update with a hole is no update."""
    weights = update()
    del weights[name]

    error = refused(weights)

    assert error.code == "STR-301"
    assert name in error.what


@given(st.text(min_size=1).filter(lambda name: name not in NAMES))
def test_extra_tensor(name: str) -> None:
    """Nothing rides along, whatever it is called, and a long name is not repeated in full."""
    error = refused({**update(), name: np.zeros(1, np.float32)})

    assert error.code == "STR-301"
    assert len(error.what) < 200


@given(st.sampled_from(NAMES))
def test_renamed_tensor(name: str) -> None:
    """A tensor under another name is a missing and an unexpected one."""
    weights = update()
    weights[name.upper()] = weights.pop(name)

    error = refused(weights)

    assert error.code == "STR-301"
    assert "1 missing and 1 unexpected" in error.what


@pytest.mark.parametrize("shape", [(2, 3), (6,), (1, 2), (3, 2, 1), (3, 1), ()])
def test_shapes_that_numpy_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    """Broadcasting would silently spread one site's value over a whole tensor."""
    error = refused({**update(), "trunk.weight": np.ones(shape, np.float32)})

    assert error.code == "STR-302"
    assert "trunk.weight" in error.what


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "complex64"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    """The dtype is part of the contract; float64 would double the bytes, integers the meaning."""
    error = refused({**update(), "head.weight": np.zeros((1, 3), dtype)})

    assert error.code == "STR-302"
    assert dtype in error.what


@given(st.floats(min_value=1000, max_value=2.0**60, width=32))
def test_messages_hold_no_value(value: float) -> None:
    """A refusal names tensors; the numbers in them may have been learned from one patient."""
    weights = update()
    weights["trunk.bias"][1] = value
    weights["trunk.weight"][0, 0] = np.nan

    error = refused(weights)

    assert repr(float(value)) not in str(error)
    assert "nan" not in str(error).replace("NaN or infinity", "")


def test_a_nan_that_signals() -> None:
    """It is refused as any other; the processor's complaint about it is no warning of ours."""
    weights = update()
    weights["trunk.bias"].view(np.uint32)[1] = 0x7F800001
    assert refused(weights).code == "STR-303"
