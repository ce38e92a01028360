"""What people get wrong on the command line: a code, a fix, an exit status, and nothing lost."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from stillroom.common.console import run_cli
from stillroom.common.study import Study
from stillroom.deploy import cli as rehearsal_cli
from stillroom.deploy.rehearsal import Plan, rehearse
from stillroom.server import cli as server_cli

TINY = Path(__file__).with_name("tiny.toml")
SMALL = ["--labelled", "2", "--unlabelled", "0", "--held-out", "1", "--in-process"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The tiny study, to be spoiled."""
    return Path(shutil.copy(TINY, tmp_path / "study.toml"))


def spoil(study: Path, old: str, new: str) -> None:
    text = study.read_text()
    assert old in text
    study.write_text(text.replace(old, new, 1))


class Refused:
    """Runs a command line as its entry point does and expects ``error CODE`` and ``fix``."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.capsys = capsys
        self.patch = patch

    def __call__(self, cli: object, *arguments: object, code: str, status: int) -> str:
        """What was printed on standard error."""
        self.patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_cli(cli.app)  # type: ignore[attr-defined]
        errors = self.capsys.readouterr().err
        assert caught.value.code == status, errors
        assert errors.startswith(f"error {code}: ")
        assert "\nfix: " in errors
        return errors


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    return Refused(capsys, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new", "code", "word"),
    [
        ("seed = 3", "sede = 3", "STR-102", "study.sede"),
        ('"teach-vessels", "teach-landmarks"]', '"ghost"]', "STR-103", "ghost"),
        ('label = "vessels"', 'label = "valves"', "STR-103", "valves"),
        ("[study]", "[study", "STR-102", "TOML"),
    ],
)
def test_wrong_study_files(
    study: Path, tmp_path: Path, refused: Refused, old: str, new: str, code: str, word: str
) -> None:
    """Said before a single phantom is made; the output folder is not touched."""
    spoil(study, old, new)
    out = tmp_path / "out"

    errors = refused(rehearsal_cli, "--out", out, "--study", study, code=code, status=2)

    assert word in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("max_update_mib = 8", "max_update_mib = 0.01", "STR-105"),
        ("patch = [32, 32, 32]", "patch = [30, 30, 30]", "STR-106"),
    ],
)
def test_models_that_do_not_fit(
    study: Path, tmp_path: Path, refused: Refused, old: str, new: str, code: str
) -> None:
    """A student too large for the study's limit; a patch its strides cannot divide."""
    spoil(study, old, new)

    refused(server_cli, "study", "check", study, code=code, status=2)
    refused(server_cli, "study", "prepare", study, "--out", tmp_path / "out", code=code, status=2)
    assert not (tmp_path / "out" / "study.json").exists()


def test_output_folder_that_holds_something(tmp_path: Path, refused: Refused) -> None:
    """Nothing is overwritten, ever."""
    (tmp_path / "precious").write_text("results of last year")

    for cli, arguments in (
        (rehearsal_cli, ["--out", tmp_path, "--study", TINY]),
        (server_cli, ["study", "prepare", TINY, "--out", tmp_path]),
    ):
        refused(cli, *arguments, code="STR-107", status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        ("atlantis={tmp}", "STR-100", "atlantis"),
        ("north={tmp}/nowhere", "STR-101", "north"),
        ("{tmp}", "STR-100", "SITE=FOLDER"),
        ("=x", "STR-100", "SITE=FOLDER"),
    ],
)
def test_data_of_nobody(tmp_path: Path, refused: Refused, data: str, code: str, word: str) -> None:
    """A site that is not there, a folder that is not there, a pair that is none."""
    pair = data.format(tmp=tmp_path)
    arguments = ["--out", tmp_path / "out", "--study", TINY, "--data", pair]

    assert word in refused(rehearsal_cli, *arguments, code=code, status=2)


def test_missing_study_file(tmp_path: Path, refused: Refused) -> None:
    """STR-101, for both programs."""
    absent = tmp_path / "absent.toml"
    refused(rehearsal_cli, "--out", tmp_path / "o", "--study", absent, code="STR-101", status=2)
    refused(server_cli, "study", "check", absent, code="STR-101", status=2)


def test_label_that_no_site_owns(tmp_path: Path, refused: Refused) -> None:
    """One hospital cannot own three labels: known after the inventory, recorded as a failure."""
    out = tmp_path / "out"
    arguments = ["--out", out, "--study", TINY, "--sites", "1", *SMALL]

    errors = refused(rehearsal_cli, *arguments, code="STR-104", status=2)

    assert "label" in errors
    result = json.loads((out / "run" / "result.json").read_text())
    assert (result["status"], result["error"]["code"]) == ("failed", "STR-104")
    assert all(stage["rounds"] == [] for stage in result["stages"])


def test_site_without_a_scan(tmp_path: Path) -> None:
    """It says so, and the study goes on without it."""
    out = tmp_path / "out"
    plan = Plan(
        out=out,
        study=Study.load(TINY),
        sites=4,
        in_process=True,
        labelled=2,
        unlabelled=0,
        held_out=1,
    )

    def lose_the_scans(done: int, total: int) -> None:
        if done == total:
            (folder,) = out.glob("scans/north-2")
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    result = rehearse(plan, lambda _: None, progress=lose_the_scans).result

    assert result["status"] == "completed"
    assert result["notes"] == ["north-2 has no usable case."]
    assert result["complete_participation"] is False
    assert "north-2" not in result["stages"][-1]["rounds"][0]["sites"]
