"""``stillroom-client page`` and ``stillroom-server page``: where they listen, and where they refuse to."""

import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from stillroom.client.cli import app as client
from stillroom.common.errors import ConfigError, StillroomError
from stillroom.common.pages.listening import listening


def start(*arguments: object) -> "subprocess.Popen[str]":
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_site_page_is_told_and_ends_when_told(hospital: Any) -> None:
    """One line with its address, which answers; SIGTERM ends it with 0."""
    config = hospital.folder / "site.toml"
    process = start("stillroom.client.cli", "page", "--config", config, "--listen", "127.0.0.1:0")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        assert "What has left?" in httpx.get(url).text
        assert "stillroom_client_connected 1.0" in httpx.get(f"{url}metrics").text
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "")


def test_the_operator_page_behind_password_and_tls(coordinator: Any) -> None:
    """With the server's own certificate, for whoever trusts its CA and knows the password."""
    folder, password = coordinator.folder, coordinator.folder / "page.password"
    password.write_text("a-password-of-some-length\n")
    password.chmod(0o600)
    process = start(
        "stillroom.server.cli", "page", "--config", folder / "server.toml",
        "--listen", "127.0.0.1:0", "--password-file", password,
        "--certificate", folder / "server.pem", "--private-key", folder / "server.key",
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        with httpx.Client(verify=trust) as browser:
            assert browser.get(url).status_code == 401
            answer = browser.get(url, auth=("ada", "a-password-of-some-length"))
        assert "Example consortium" in answer.text
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def code_of(**options: Any) -> str:
    address = options.pop("address")
    with pytest.raises(ConfigError) as caught:
        listening(address, **options)
    return caught.value.code


def test_other_machines_only_behind_password_and_tls(tmp_path: Path) -> None:
    """Neither alone is enough; on loopback neither is needed."""
    password = tmp_path / "p"
    password.write_text("x" * 16)
    password.chmod(0o600)
    tls = {"certificate": tmp_path / "c", "private_key": tmp_path / "k"}
    for address in ("0.0.0.0:8480", "[::]:8480", "192.0.2.1:8480"):
        assert code_of(address=address) == "STR-525"
        assert code_of(address=address, password_file=password) == "STR-525"
        assert code_of(address=address, **tls) == "STR-525"
        found = listening(address, password_file=password, names=["Page.example"], **tls)
        assert found.url.startswith("https://")
        assert "page.example" in found.names
    assert "0.0.0.0" not in listening("0.0.0.0:1", password_file=password, **tls).names  # noqa: S104
    for address in ("127.0.0.1:8480", "[::1]:8480", "127.9.9.9:1", "localhost:8480"):
        assert listening(address).url.startswith("http://")


@pytest.mark.parametrize("address", ["", "8480", "127.0.0.1", "127.0.0.1:x", "host:1", "::1:70000"])
def test_addresses_that_are_none(address: str) -> None:
    """Told as such, before anything is opened."""
    assert code_of(address=address) == "STR-100"


@pytest.mark.parametrize(
    ("text", "mode"), [("x" * 16, 0o640), ("x" * 16, 0o604), ("x" * 15, 0o600), ("", 0o600)]
)
def test_passwords_that_are_none(tmp_path: Path, text: str, mode: int) -> None:
    """Short, empty or open to others; the password itself is in no message."""
    path = tmp_path / "p"
    path.write_text(text)
    path.chmod(mode)
    assert code_of(address="127.0.0.1:1", password_file=path) == "STR-526"
    assert code_of(address="127.0.0.1:1", password_file=tmp_path / "absent") == "STR-526"


def test_a_port_that_is_taken(hospital: Any, site_server: Any) -> None:
    """Said at once, with what to do."""
    arguments = [
        "page",
        "--config",
        str(hospital.folder / "site.toml"),
        "--listen",
        site_server.host,
    ]
    done = CliRunner().invoke(client, arguments)
    assert isinstance(done.exception, StillroomError)
    assert done.exception.code == "STR-501"
