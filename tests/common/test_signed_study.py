"""A site takes a study only with the signature of an operator it knows."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.errors import TrustError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.signed_study import (
    MAX_BYTES,
    SignedStudy,
    StudySignature,
    refuse_expired,
    sign_study,
)
from stillroom.common.signing import key_id, new_signing_key, public_key_hex, sign
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OPERATORS = {key_id(KEY): public_key_hex(KEY)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared study of one stage, not yet signed."""
    study = Study.parse(
        {
            "study": {"name": "fake", "expires": "2027-06-30"},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [{"name": "teach", "recipe": "teach", "label": "vessels"}],
        }
    )
    digest = write_weights(tmp_path / "weights", {"w": np.zeros(3, np.float32)})
    spec = TensorSpec(name="w", shape=(3,), dtype="float32", group="trunk")
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=(spec,)))
    prepared = PreparedStudy(study=study, stages={"teach": stage})
    (tmp_path / "study.json").write_text(prepared.model_dump_json(), "utf-8")
    return tmp_path


def refused(folder: Path, operators: dict[str, str] = OPERATORS) -> str:
    """The code with which the folder is refused."""
    with pytest.raises(TrustError) as caught:
        SignedStudy.load(folder, operators)
    return caught.value.code


def test_a_signed_study_loads(folder: Path) -> None:
    """Digest, weights and signature hold, and the operator is named."""
    sign_study(folder, KEY)
    signed = SignedStudy.load(folder, OPERATORS)
    assert signed.operator == key_id(KEY)
    assert signed.prepared.study.study.expires == date(2027, 6, 30)


def test_unsigned_or_unknown_is_refused(folder: Path) -> None:
    """No signature, or one by somebody else, is STR-209."""
    assert refused(folder) == "STR-209"
    sign_study(folder, new_signing_key())
    assert refused(folder) == "STR-209"
    sign_study(folder, KEY)
    assert refused(folder, {}) == "STR-209"


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the signature file."""
    path = folder / "study.sig"
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


def test_a_signature_of_another_study_or_meaning_is_refused(folder: Path) -> None:
    """The digest in the file must be this study's, and the purpose a study's."""
    sign_study(folder, KEY)
    edit(folder, lambda v: v.update(study="b" * 64))
    assert refused(folder) == "STR-209"
    sign_study(folder, KEY)
    digest = PreparedStudy.load(folder).digest
    edit(folder, lambda v: v.update(signature=sign(KEY, "consent", {"study": digest})))
    assert refused(folder) == "STR-207"


def test_a_changed_study_is_refused(folder: Path) -> None:
    """One more round than was signed is another study."""
    sign_study(folder, KEY)
    path = folder / "study.json"
    path.write_text(path.read_text("utf-8").replace('"rounds":1', '"rounds":2'), "utf-8")
    assert refused(folder) == "STR-209"


def test_changed_weights_are_refused(folder: Path) -> None:
    """The weights a stage starts from are part of what was signed."""
    sign_study(folder, KEY)
    next((folder / "weights").iterdir()).write_bytes(b"other")
    assert refused(folder) == "STR-204"
    with pytest.raises(TrustError):
        sign_study(folder, KEY)


def test_an_operator_under_a_false_name_is_refused(folder: Path) -> None:
    """A key id that is not the key's own cannot lead to another operator's key."""
    other = new_signing_key()
    sign_study(folder, KEY)
    assert refused(folder, {key_id(KEY): public_key_hex(other)}) == "STR-209"


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 4000, b" " * (MAX_BYTES + 1), b"\xff"])
def test_a_damaged_signature_file_is_refused(data: bytes) -> None:
    """Other bytes end in a code."""
    with pytest.raises(TrustError) as caught:
        StudySignature.parse(data)
    assert caught.value.code == "STR-209"


def test_a_study_ends_with_its_last_day() -> None:
    """The last day counts whole, in UTC."""
    last = date(2027, 6, 30)
    refuse_expired(None, 0.0)
    refuse_expired(last, datetime(2027, 6, 30, 23, 59, 59, tzinfo=UTC).timestamp())
    with pytest.raises(TrustError) as caught:
        refuse_expired(last, datetime(2027, 7, 1, tzinfo=UTC).timestamp())
    assert caught.value.code == "STR-210"
