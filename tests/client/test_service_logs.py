"""The logs in the services' own folders: bounded, mixed in order, followed across rotation."""

import json
import logging
from itertools import islice
from pathlib import Path

import pytest

from stillroom.client.service_logs import LogLine, follow, tail
from stillroom.common import logs
from stillroom.common.logs import also_to


def write(path: Path, *lines: dict[str, object]) -> None:
    with path.open("a") as stream:
        for line in lines:
            stream.write(json.dumps(line) + "\n")


def at(second: int, level: str = "info") -> dict[str, object]:
    return {"time": f"2026-05-01T12:00:{second:02d}", "level": level, "event": f"e{second}"}


def events(lines: list[LogLine]) -> list[str]:
    return [str(line.fields["event"]) for line in lines]


def test_the_last_lines_of_both_in_order(tmp_path: Path) -> None:
    """By time, the oldest first; a file that is absent has none, a line that is none is left out."""
    courier, runner = tmp_path / "courier.log", tmp_path / "runner.log"
    write(courier, at(1), at(3), at(5))
    write(runner, at(2), at(4, "warning"))
    with courier.open("ab") as stream:
        stream.write(b"half a li")
    files = [("courier", courier), ("runner", runner), ("none", tmp_path / "absent")]
    assert events(tail(files, 3)) == ["e3", "e4", "e5"]
    assert events(tail(files, 9, severity=2)) == ["e4"]
    assert tail(files, 0) == []


def test_a_full_file_is_read_with_the_one_before(tmp_path: Path) -> None:
    """Just after it was begun anew there would be hardly anything to see."""
    write(tmp_path / "courier.log.1", at(1))
    write(tmp_path / "courier.log", at(2))
    assert events(tail([("courier", tmp_path / "courier.log")], 9)) == ["e1", "e2"]


def test_followed_lines_come_whole(tmp_path: Path) -> None:
    """Also when the file is replaced by a shorter one."""
    path = tmp_path / "courier.log"
    write(path, at(1), at(2))
    steps = iter(
        [
            lambda: write(path, at(3)),
            lambda: path.write_text(json.dumps(at(4)) + "\n"),
            lambda: write(path, at(5)),
        ]
    )
    found = list(islice(follow([("courier", path)], wait=lambda _: next(steps)()), 3))
    assert events(found) == ["e3", "e4", "e5"]


def test_a_line_for_people() -> None:
    """Time, part, level, event, fields; a traceback below."""
    fields = at(7, "error") | {"code": "STR-505", "logger": "x", "traceback": "Trace\n  line"}
    assert LogLine("runner", fields).text() == (
        "2026-05-01 12:00:07 runner   error    e7 code=STR-505\nTrace\n  line"
    )


def test_a_log_is_bounded_and_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is said, a few files of a few MiB remain."""
    monkeypatch.setattr(logs, "MOST_BYTES", 2000)
    path = tmp_path / "courier" / "courier.log"
    ours = logging.getLogger("stillroom")
    before, level = list(ours.handlers), ours.level
    try:
        ours.setLevel(logging.INFO)
        also_to(path)
        for number in range(100):
            logging.getLogger("stillroom.test").info("courier.retry", extra={"round": number})
    finally:
        for handler in set(ours.handlers) - set(before):
            ours.removeHandler(handler)
            handler.close()
        ours.setLevel(level)
    files = sorted(p.name for p in path.parent.iterdir())
    assert files == ["courier.log", "courier.log.1", "courier.log.2", "courier.log.3"]
    assert all(p.stat().st_size <= 2000 for p in path.parent.iterdir())
    assert path.stat().st_mode & 0o077 == 0 or len(files) > 1
    assert tail([("courier", path)], 1)[0].fields["round"] == 99


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    """Standard error has every line, too."""
    (tmp_path / "file").write_text("")
    before = list(logging.getLogger("stillroom").handlers)
    also_to(tmp_path / "file" / "courier.log")
    assert logging.getLogger("stillroom").handlers == before
