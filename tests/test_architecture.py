"""Rules that no reviewer should have to remember."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SIDES = ("common", "server", "client", "deploy")
HEAVY = {"torch", "monai", "SimpleITK", "pydicom", "highdicom", "pynetdicom", "dicomweb_client"}
SOURCES = sorted(path for side in SIDES for path in (ROOT / side / "stillroom").rglob("*.py"))

LONGEST = 320
LONGER = {
    "common/stillroom/common/study.py": 360,  # the whole study file on one page
}
"""Files that may be longer, each with its own bound, so that none grows unseen."""

FLOWER = {
    "common/stillroom/common/accounting.py",
    "common/stillroom/common/messages.py",
    "common/stillroom/common/parcel.py",
    "server/stillroom/server/operator.py",
    "server/stillroom/server/superlink.py",
    "server/stillroom/server/edge.py",
    "server/stillroom/server/layers.py",
    "server/stillroom/server/nodes.py",
    "server/stillroom/server/objects.py",
    "server/stillroom/server/superexec.py",
    "server/stillroom/server/app.py",
    "server/stillroom/server/arrivals.py",
    "server/stillroom/server/exchange.py",
    "client/stillroom/client/app.py",
    "client/stillroom/client/carriage.py",
    "client/stillroom/client/courier.py",
    "client/stillroom/client/fleet.py",
    "client/stillroom/client/gate.py",
    "client/stillroom/client/handover.py",
    "client/stillroom/client/listener.py",
    "client/stillroom/client/outgoing.py",
    "client/stillroom/client/privacy.py",
    "client/stillroom/client/runner.py",
    "client/stillroom/client/runtime_app.py",
    "client/stillroom/client/runtime_client.py",
    "deploy/stillroom/deploy/local_grid.py",
    "deploy/stillroom/deploy/local_site.py",
}
"""DESIGN section 2, and the only place where an upgrade of Flower can hurt."""


def python(code: str, **env: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_server_imports_nothing_heavy() -> None:
    """The coordinator must run on a small machine without the imaging stack."""
    modules = ", ".join(
        f"stillroom.server.{name}" for name in ("cli", "superlink", "app", "study_run", "edge")
    )
    loaded = python(f"import sys, {modules}; print(*sys.modules)").split()

    assert set() == HEAVY & set(loaded)


def test_client_command_line_is_light() -> None:
    """`--help` and the courier, which has the network, load neither torch nor a DICOM reader."""
    loaded = python("import sys, stillroom.client.courier; print(*sys.modules)").split()

    assert set() == HEAVY & set(loaded)


@pytest.mark.parametrize(
    "module", ["common.errors", "server.superlink", "client.courier", "deploy.local_grid"]
)
def test_flower_does_not_phone_home(module: str) -> None:
    """The switches are set before Flower reads them, whatever the environment said."""
    code = (
        f"import stillroom.{module}, os\n"
        "import flwr.supercore.telemetry as telemetry\n"
        "print(os.environ['FLWR_TELEMETRY_ENABLED'], os.environ['FLWR_DISABLE_UPDATE_CHECK'],"
        " telemetry.FLWR_TELEMETRY_ENABLED)"
    )
    seen = python(code, FLWR_TELEMETRY_ENABLED="1", FLWR_DISABLE_UPDATE_CHECK="0")

    assert seen.split() == ["0", "1", "0"]


@pytest.mark.parametrize("side", SIDES)
def test_namespace_is_intact(side: str) -> None:
    """A stray `__init__.py` would hide the other sides at once."""
    assert not (ROOT / side / "__init__.py").exists()
    assert not (ROOT / side / "stillroom" / "__init__.py").exists()
    assert (ROOT / side / "stillroom" / side / "__init__.py").is_file()


def test_files_are_short() -> None:
    """One idea per file."""
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in SOURCES
    }

    assert not {n: c for n, c in lines.items() if c > LONGER.get(n, LONGEST)}


def test_every_module_says_what_it_is() -> None:
    """A docstring first."""
    assert not [path for path in SOURCES if not path.read_text("utf-8").startswith(('"""', 'r"""'))]


def test_flower_is_imported_where_design_says() -> None:
    """Everything else is ours to read without Flower's source beside it."""
    imports = re.compile(r"^\s*(?:from|import) flwr\b", re.MULTILINE)
    found = {str(p.relative_to(ROOT)) for p in SOURCES if imports.search(p.read_text("utf-8"))}

    assert found == FLOWER


def test_no_shipped_code_is_ever_loaded() -> None:
    """A site has no line that unpacks, installs or imports what a run brings."""
    text = "".join(p.read_text("utf-8") for p in SOURCES if "client" in p.parts)

    for word in (
        "install_from_fab",
        "load_client_app",
        "load_app",
        "runpy",
        "exec(",
        "pip install",
    ):
        assert word not in text, word
