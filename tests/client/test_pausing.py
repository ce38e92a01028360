"""A pause: a file that lasts, its twin for the runner, and every change told once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stillroom.client.pausing import NAME, PauseWatch, mirror, pause, paused_since, resume, standing
from stillroom.common.errors import ResourceError


def test_a_pause_lasts_until_somebody_resumes(tmp_path: Path) -> None:
    """Its beginning is kept when it is asked for again, its reason may change."""
    state = tmp_path / "courier"
    assert paused_since(state) is None
    assert not resume(state)
    pause(state, "scanner upgrade")
    since = paused_since(state)
    assert since is not None
    assert abs((datetime.now(UTC) - since).total_seconds()) < 5
    pause(state, "until Monday")
    found = standing(state)
    assert found is not None
    assert (found.since, found.why) == (since, "until Monday")
    assert resume(state)
    assert paused_since(state) is None


@pytest.mark.parametrize("data", [b"", b"[]", b'{"since": 7}', b"\xff", b'{"since": "x"}'])
def test_a_pause_that_cannot_be_read_is_one(tmp_path: Path, data: bytes) -> None:
    """Somebody wanted this site to stop; the file's age is its beginning."""
    (tmp_path / NAME).write_bytes(data)
    assert paused_since(tmp_path) is not None


def test_a_long_reason_is_cut(tmp_path: Path) -> None:
    """It is for one line on a screen."""
    pause(tmp_path, "x" * 5000)
    found = standing(tmp_path)
    assert found is not None
    assert len(found.why) == 200


def test_the_twin_follows(tmp_path: Path) -> None:
    """There and gone with the pause, and without its reason."""
    state, exchange = tmp_path / "courier", tmp_path / "exchange"
    mirror(state, exchange)
    assert not exchange.exists()
    pause(state, "a reason")
    mirror(state, exchange)
    mirror(state, exchange)
    assert paused_since(exchange) == paused_since(state)
    assert b"reason" not in (exchange / NAME).read_bytes()
    resume(state)
    mirror(state, exchange)
    assert paused_since(exchange) is None


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    """A pause that is not written is not claimed."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="STR-503"):
        pause(tmp_path / "file")


def test_every_change_is_told_once(tmp_path: Path) -> None:
    """Across restarts too: what was told last is known to the next courier."""
    told: list[bool] = []
    watch = PauseWatch(tmp_path, was=False, note=told.append)
    assert not watch.lasts()
    pause(tmp_path)
    assert watch.lasts()
    assert watch.lasts()
    assert told == [True]
    again = PauseWatch(tmp_path, was=True, note=told.append)
    assert again.lasts()
    resume(tmp_path)
    assert not again.lasts()
    assert told == [True, False]
