"""What ``init`` asks, refuses and writes down."""

import tomllib
from pathlib import Path

import pytest

from stillroom.client.config import SiteConfig
from stillroom.client.setup import (
    QUESTIONS,
    Answers,
    make_folders,
    refuse_if_there,
    with_answer,
)
from stillroom.client.site_file import SiteForm
from stillroom.common.errors import ConfigError

WHOLE = Answers("fl.example.org:8443", "token", "ab" * 32, ("/data/ct",))


def test_what_is_asked() -> None:
    """What no option says, and no more: three things from the operator and a folder are enough."""
    assert [q.key for q in QUESTIONS if q.is_open(Answers())] == [
        "server",
        "token",
        "fingerprint",
        "data",
        "study",
        "device",
    ]
    assert [q.key for q in QUESTIONS if q.is_open(WHOLE)] == ["study", "device"]
    by_file = Answers(kit=Path("kit.json"), fingerprint="ab", data=("/d",), study="s", device="cpu")
    assert not [q.key for q in QUESTIONS if q.is_open(by_file)]


def test_answers_become_a_site_toml(tmp_path: Path) -> None:
    """Which holds, comments included; the edge is at port 443 of the same host."""
    answers = with_answer(WHOLE, "data", " /data/ct , /data/mr ").checked()
    text = answers.form.text("north")
    path = tmp_path / "site.toml"
    path.write_text(text, "utf-8")
    config = SiteConfig.load(path)
    assert (config.site, config.server, config.device) == ("north", "fl.example.org:443", "auto")
    assert config.data == (Path("/data/ct"), Path("/data/mr"))
    assert config.courier_state == tmp_path / "courier"
    assert text.count("#") > 10


@pytest.mark.parametrize("odd", ['/data/"quoted"', "/data/back\\slash", "/data/ü", "/data/[x]"])
def test_odd_folders_are_written_as_they_are(odd: str) -> None:
    """TOML has its own ideas of quotes and backslashes."""
    text = SiteForm("fl.example.org:443", (odd,)).text("north")
    assert tomllib.loads(text)["data"] == [odd]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (Answers(), "--server, --token, --fingerprint, --data"),
        (Answers("fl.example.org", "t", "f", ("/d",)), "HOST:PORT"),
        (Answers("https://fl:443", "t", "f", ("/d",)), "HOST:PORT"),
        (Answers("fl:99999", "t", "f", ("/d",)), "HOST:PORT"),
        (Answers("fl:8443", "t", "f", ("/d",), device="tpu"), "--device"),
        (Answers(fingerprint="f", data=("/d",), kit=Path("k")), "--edge"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(answers: Answers, words: str) -> None:
    """Before a key is made or anybody is asked."""
    with pytest.raises(ConfigError, match=words):
        answers.checked()


def test_a_folder_that_is_not_visible_is_a_remark(tmp_path: Path) -> None:
    """In the courier's container it must not be."""
    (remark,) = Answers(data=(str(tmp_path / "absent"),)).remarks()
    assert "not visible from here" in remark


def test_a_site_that_is_set_up_is_left_alone(tmp_path: Path) -> None:
    """Nothing is overwritten."""
    refuse_if_there(tmp_path)
    (tmp_path / "site.toml").write_text("")
    with pytest.raises(ConfigError, match="STR-107"):
        refuse_if_there(tmp_path)


def test_folders_are_closed(tmp_path: Path) -> None:
    """To everybody but who needs them; those that are there keep their rights."""
    (tmp_path / "exchange").mkdir(mode=0o770)
    (tmp_path / "exchange").chmod(0o770)
    make_folders(tmp_path)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert modes == {"state": 0o700, "courier": 0o700, "exchange": 0o770}
