"""A proxy that cannot be used is named at the start, whatever would have dialled first."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillroom.client.cli import app
from stillroom.client.connection import require_usable_proxy
from stillroom.common.errors import StillroomError


@pytest.mark.parametrize("proxy", ["socks5://proxy:1080", "https://proxy:443"])
def test_other_kinds_of_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str) -> None:
    """STR-506 and no traceback, before anything of this site has been made or sent."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(StillroomError) as caught:
        require_usable_proxy("fl.example.org:443")
    assert caught.value.code == "STR-506"

    folder = tmp_path / "site"
    words = ["--dir", str(folder), "--server", "127.0.0.1:9", "--token", "t"]
    done = CliRunner().invoke(app, ["enrol", *words, "--fingerprint", "0" * 64])
    assert isinstance(done.exception, StillroomError)
    assert done.exception.code == "STR-506"
    assert not folder.exists()


def test_usual_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is, with a password too, and none at all."""
    for proxy in ("http://user:word@proxy:3128", "proxy:3128", ""):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        require_usable_proxy("fl.example.org:443")
