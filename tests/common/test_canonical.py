"""One value, one byte string, one digest."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.canonical import canonical_bytes, digest, file_digest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_golden_bytes() -> None:
    """Sorted keys, no white space, UTF-8 as it is: the bytes that two machines must agree on."""
    value = {"b": [1, 2.5, None, True], "a": {"ü": "x y"}}

    assert canonical_bytes(value) == '{"a":{"ü":"x y"},"b":[1,2.5,null,true]}'.encode()
    assert digest({}) == hashlib.sha256(b"{}").hexdigest()


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_order_of_insertion_is_invisible(value: dict[str, object]) -> None:
    """A dict that was filled in another order has the same digest."""
    assert digest(value) == digest(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, {"a": float("-inf")}]])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    """NaN and infinity have no canonical form, so they have no digest."""
    with pytest.raises(ValueError, match="JSON"):
        canonical_bytes(value)


def test_file_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    """Read in blocks or at once, the digest is the same."""
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)

    assert file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()
