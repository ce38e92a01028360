"""server.toml: a mistake names its key, never its value."""

from pathlib import Path

import pytest

from stillroom.common.errors import ConfigError
from stillroom.server.config import ServerConfig

GOOD = """
state = "state"
edge_port = 8443
inner_port = 8000
[tls]
ca = "ca.pem"
certificate = "server.pem"
private_key = "server.key"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ca.pem", "server.pem", "server.key"):
        (tmp_path / name).write_text("x")
    return tmp_path


def load(folder: Path, text: str) -> ServerConfig:
    (folder / "server.toml").write_text(text)
    return ServerConfig.load(folder / "server.toml")


def test_paths_start_at_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the working directory is, a relative path means the same file."""
    monkeypatch.chdir("/")
    config = load(folder, GOOD)

    assert config.tls.ca == folder / "ca.pem"
    assert config.database == str(folder / "state" / "flower.db")
    assert config.secret_file.parent == folder / "state"
    assert config.inner_address == "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("edge_port", "edge_prot"), "edge_prot"),
        (("edge_port = 8443", "edge_port = 0"), "edge_port"),
        (("edge_port = 8443", "edge_port = 70000"), "edge_port"),
        (('state = "state"', ""), "state"),
        (('ca = "ca.pem"', ""), "tls.ca"),
        (('"server.key"', '"hunter2"'), "tls.private_key"),
        (("[tls]", "[tsl]"), "tls"),
        (("inner_port = 8000", 'inner_port = "hunter2"'), "inner_port"),
    ],
)
def test_bad_keys_are_named(folder: Path, change: tuple[str, str], key: str) -> None:
    """STR-102, with every key that is wrong and none of the values."""
    with pytest.raises(ConfigError) as caught:
        load(folder, GOOD.replace(*change))

    assert caught.value.code == "STR-102"
    assert key in caught.value.what
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["[tls", "a = \x00", "= 1"])
def test_not_toml(folder: Path, text: str) -> None:
    """STR-102 with the line; a file that is not there is STR-101."""
    cases = {
        "STR-102": lambda: load(folder, text),
        "STR-101": lambda: ServerConfig.load(folder / "absent.toml"),
    }
    for code, attempt in cases.items():
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert caught.value.code == code
