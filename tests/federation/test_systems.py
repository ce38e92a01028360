"""All five systems in one federation: every recipe's rounds through intake, gate, log and report."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillroom.common.recipes.registry import BUILT_IN
from stillroom.common.study import PreparedStudy

STUDY = Path(__file__).with_name("systems.toml")


Rehearse = Callable[..., Path]


@pytest.fixture(scope="module")
def rehearsed(
    tmp_path_factory: pytest.TempPathFactory, rehearse_command: Callable[..., list[str]]
) -> Rehearse:
    """Rehearses the study of every recipe, with further options of the command."""

    def rehearse(*more: str) -> Path:
        folder = tmp_path_factory.mktemp("systems") / "out"
        done = subprocess.run(
            rehearse_command(folder, *more, study=STUDY),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return folder

    return rehearse


@pytest.fixture(scope="module")
def out(rehearsed: Rehearse) -> Path:
    """The study of every recipe, rehearsed in one process."""
    return rehearsed("--in-process")


def summary(out: Path) -> dict[str, Any]:
    """The rehearsal's summary."""
    found: dict[str, Any] = json.loads((out / "summary.json").read_text("utf-8"))
    return found


def test_every_recipe_was_used(out: Path) -> None:
    """Whoever adds a recipe adds it here, too."""
    stages = summary(out)["stages"]

    assert {stage["recipe"] for stage in stages} == {one.name for one in BUILT_IN}
    assert all(len(stage["rounds"]) >= 1 for stage in stages)


def test_nobody_failed(out: Path) -> None:
    """Every site that was asked gave a usable answer in every round of every recipe."""
    for stage in summary(out)["stages"]:
        for record in stage["rounds"]:
            assert {site["status"] for site in record["sites"].values()} == {"admitted"}, stage


def test_an_adapter_costs_kilobytes(out: Path) -> None:
    """A prompt with its probe, and a linear layer, beside the student that they build on."""
    prepared = PreparedStudy.load(out / "study")
    size = {name: stage.manifest.nbytes for name, stage in prepared.stages.items()}

    assert size["linear"] == (1 + 2) * (8 + 1) * 4
    assert size["prompt"] < 0.03 * size["student"]
    assert prepared.stages["prompt"].manifest.groups == ("head.vessels", "prompt")


def test_every_model_that_predicts_was_scored(out: Path) -> None:
    """At the held-out site; the label of whole scans by its own scores."""
    found = summary(out)
    scored = {name for name, table in found["teachers"].items() if "summit" in table}

    assert scored == {"teach-chambers", "linear", "decoder", "prompt", "bags"}
    assert "mean_auc" in found["teachers"]["bags"]["summit"]["burden"]
    assert set(found["metrics"]["summit"]) <= {"chambers", "landmarks"}


def test_the_log_names_what_each_stage_took(out: Path) -> None:
    """The warm-up began from nothing and learned from a teacher; the student began from it."""
    models = summary(out)["models"]
    entries = [
        json.loads(line) for line in (out / "run" / "events.jsonl").read_text("utf-8").splitlines()
    ]
    opened = [entry["stage"] for entry in entries if entry["event"] == "stage.opened"]

    assert opened.index("context") < opened.index("student") < opened.index("prompt")
    assert len(set(models.values())) == len(models)


@pytest.mark.slow
def test_every_recipe_over_mutual_tls(rehearsed: Rehearse, out: Path) -> None:
    """With certificates: nobody is refused or fails, and every model is the same, bit for bit."""
    found, alone = summary(rehearsed()), summary(out)

    assert found["tls_version"] == "TLSv1.3"
    assert {site["tls_version"] for site in found["sites"]} == {"TLSv1.3"}
    assert (found["status"], found["refused_connections"], found["notes"]) == ("completed", {}, [])
    assert {stage["recipe"] for stage in found["stages"]} == {one.name for one in BUILT_IN}
    for stage in found["stages"]:
        for record in stage["rounds"]:
            assert {site["status"] for site in record["sites"].values()} == {"admitted"}, stage
    assert found["models"] == alone["models"]
    assert found["metrics"] == alone["metrics"]
