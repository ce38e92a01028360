"""What a run leaves for those who watch it, while it is still being written."""

import json
from pathlib import Path

from stillroom.server.store.journal import Journal, describe, read_events


def test_events_come_in_order_and_once(tmp_path: Path) -> None:
    """A reader that remembers its offset sees every event exactly once."""
    journal = Journal(tmp_path / "run")
    journal.event("study.started", study="d" * 64)
    first = list(read_events(journal.folder))
    journal.event("stage.opened", stage="teach", recipe="teach")
    rest = list(read_events(journal.folder, offset=first[-1][0]))

    assert [event["event"] for _, event in first + rest] == ["study.started", "stage.opened"]
    assert list(read_events(journal.folder, offset=rest[-1][0])) == []


def test_half_written_line_is_left_for_later(tmp_path: Path) -> None:
    """The writer may be caught in the middle of a line, even of a character."""
    journal = Journal(tmp_path)
    journal.event("study.started", study="d")
    line = (json.dumps({"t": 1, "event": "ü"}, ensure_ascii=False) + "\n").encode()
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()

    for cut in range(len(line)):
        path.write_bytes(whole + line[:cut])
        events = list(read_events(tmp_path))
        assert [event["event"] for _, event in events] == ["study.started"]
        assert events[-1][0] == len(whole)

    path.write_bytes(whole + line)
    assert [e["event"] for _, e in read_events(tmp_path, offset=len(whole))] == ["ü"]


def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path) -> None:
    """By the next writer, before its own first line could run into it; readers never saw it."""
    journal = Journal(tmp_path)
    journal.mend()
    journal.event("study.started", study="d")
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    for torn in (b"", b"{", b'{"t": 1, "event": "x"}'):
        path.write_bytes(whole + torn)
        Journal(tmp_path).mend()
        assert path.read_bytes() == whole
    path.write_bytes(b"{")
    Journal(tmp_path).mend()
    assert path.read_bytes() == b""


def test_no_file_no_events(tmp_path: Path) -> None:
    """Watching may begin before the run does."""
    assert list(read_events(tmp_path / "nothing")) == []


def test_documents_are_replaced(tmp_path: Path) -> None:
    """The last one written is the one that is there."""
    journal = Journal(tmp_path)
    journal.write("result.json", {"status": "failed"})
    journal.write("result.json", {"status": "completed"})

    assert json.loads((tmp_path / "result.json").read_text()) == {"status": "completed"}


def test_words_for_a_terminal() -> None:
    """Every kind of event has words, or is for machines only."""
    base = {"stage": "teach", "round": 1, "of": 3}
    events = {
        "study dddddddddddddddd started": {"event": "study.started", "study": "d" * 64},
        "waiting for river": {"event": "study.waiting", "missing": ["river"]},
        "river: 7 usable cases": {
            "event": "site.inventory",
            "site": "river",
            "reason": "",
            "counts": {"inventory.cases": 7},
        },
        "teach, round 1: river late, no answer": {
            "event": "site.answered",
            **base,
            "site": "river",
            "status": "late",
            "reason": "no answer",
        },
        "teach, round 1 of 3: a, b, loss 0.250": {
            "event": "round.closed",
            **base,
            "admitted": ["a", "b"],
            "loss": 0.25,
        },
        "teach, round 1: scored by nobody": {"event": "stage.scored", **base, "sites": []},
        "study dddddddddddddddd goes on": {"event": "study.resumed", "study": "d" * 64},
        "study paused: lunch": {"event": "study.paused", "reason": "lunch"},
        "teach, round 1: river answered after the round had closed": {
            "event": "site.late",
            **base,
            "site": "river",
        },
        "teach, round 1: river asked again, nothing was heard": {
            "event": "site.asked_again",
            **base,
            "site": "river",
            "reason": "nothing was heard",
        },
        "study failed": {"event": "study.finished", "status": "failed"},
    }
    for words, event in events.items():
        assert describe(event) == words
    assert describe({"event": "stage.opened", "stage": "teach"}) is None
    assert describe({"event": "study.waiting", "missing": []}) is None
