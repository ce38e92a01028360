"""What a service manager is told of the two processes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillroom.client.cli import app
from stillroom.client.config import SiteConfig
from stillroom.client.exchange import ExchangeFolder, RunnerLock
from stillroom.client.health import require_courier, require_runner
from stillroom.client.runtime_socket import bound_socket
from stillroom.client.sockets import loopback_listener
from stillroom.common.errors import ConfigError, ResourceError

TOML = """
site = "north"
server = "fl.example.org:443"
data = ["data"]
state = "state"
study = "study"
[tls]
ca = "ca.pem"
certificate = "site.pem"
private_key = "site.key"
"""


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    (tmp_path / "site.toml").write_text(TOML, "utf-8")
    return SiteConfig.load(tmp_path / "site.toml")


def test_a_courier_that_listens_lives(site: SiteConfig) -> None:
    """Its socket is there and answers; a socket that a dead one left behind does not count."""
    with pytest.raises(ResourceError) as caught:
        require_courier(site)
    assert caught.value.code == "STR-520"

    with bound_socket(ExchangeFolder(site.exchange).socket) as listener:
        with pytest.raises(ResourceError):  # bound, and nobody listens
            require_courier(site)
        listener.listen()
        require_courier(site)


def test_a_courier_at_a_port(site: SiteConfig) -> None:
    """Where `exchange` cannot hold a socket."""
    with loopback_listener(0) as listener:
        listener.listen()
        require_courier(site.model_copy(update={"runtime_port": listener.getsockname()[1]}))


def test_a_runner_that_holds_its_lock_lives(site: SiteConfig) -> None:
    """The lock goes with the process, so a file that is left says nothing."""
    with pytest.raises(ResourceError) as caught:
        require_runner(site)
    assert caught.value.code == "STR-511"

    with RunnerLock(ExchangeFolder(site.exchange)):
        require_runner(site)
    with pytest.raises(ResourceError):
        require_runner(site)


def test_the_command(site: SiteConfig, tmp_path: Path) -> None:
    """It prints one line, and fails with the code's family otherwise."""
    config = ["--config", str(tmp_path / "site.toml")]
    with RunnerLock(ExchangeFolder(site.exchange)):
        assert CliRunner().invoke(app, ["health", "runner", *config]).stdout == "runner: alive\n"
    assert isinstance(CliRunner().invoke(app, ["health", "x", *config]).exception, ConfigError)
