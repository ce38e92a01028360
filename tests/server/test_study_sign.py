"""``study sign`` and ``run start``: no unsigned study leaves the operator's desk."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stillroom.common.errors import TrustError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.signed_study import SignedStudy
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights
from stillroom.server.cli import app
from stillroom.server.config import ServerConfig
from stillroom.server.enrolment import load_consortium
from stillroom.server.foundation import found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A prepared study of one stage."""
    folder = tmp_path / "study"
    parsed = Study.parse(
        {
            "study": {"name": "fake"},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [{"name": "teach", "recipe": "teach", "label": "vessels"}],
        }
    )
    digest = write_weights(folder / "weights", {"w": np.zeros(3, np.float32)})
    spec = TensorSpec(name="w", shape=(3,), dtype="float32", group="trunk")
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=(spec,)))
    prepared = PreparedStudy(study=parsed, stages={"teach": stage})
    (folder / "study.json").write_text(prepared.model_dump_json(), "utf-8")
    return folder


def test_sign_then_start(tmp_path: Path, study: Path) -> None:
    """Unsigned, it does not start; signed by the founder's key, the consortium knows it."""
    found(tmp_path / "server", "test", ["127.0.0.1"], datetime.now(UTC))
    toml = tmp_path / "server" / "server.toml"
    start = ["run", "start", "--config", str(toml), str(study), "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, start)
    assert isinstance(refused.exception, TrustError)
    assert refused.exception.code == "STR-209"

    key = tmp_path / "server" / "operator.key"
    signed = CliRunner().invoke(app, ["study", "sign", str(study), "--key", str(key)])
    assert signed.exit_code == 0
    known = load_consortium(ServerConfig.load(toml)).operator_keys
    loaded = SignedStudy.load(study, known)
    assert loaded.operator in signed.output
    assert loaded.prepared.digest[:4] in signed.output
