"""The example files shipped in deploy/ and the studies that come with the package."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from stillroom.client.config import SiteConfig
from stillroom.common.study import Study
from stillroom.server.config import ServerConfig

ROOT = Path(__file__).parents[2] / "deploy"
STUDIES = sorted(Path(str(files("stillroom.deploy") / "studies")).glob("*.toml"))


def test_site_example_is_a_valid_site_config() -> None:
    """What hospital IT copies is accepted as it stands."""
    site = SiteConfig.load(ROOT / "client" / "site.example.toml")

    assert site.server == "fl.example.org:443"
    assert site.tls.private_key == ROOT / "client" / "site.key"


def test_server_example_is_a_valid_server_config(tmp_path: Path) -> None:
    """What an operator copies is accepted once its three PEM files exist."""
    text = (ROOT / "server" / "server.example.toml").read_text("utf-8")
    for name in tomllib.loads(text)["tls"].values():
        (tmp_path / name).touch()
    (tmp_path / "server.toml").write_text(text, "utf-8")

    assert ServerConfig.load(tmp_path / "server.toml").edge_port == 443


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path: Path) -> None:
    """Every study file in the package passes its own check."""
    assert Study.load(path).stage
