"""The journal after kills, and secrets that others can read."""

import os
from pathlib import Path

import pytest

from stillroom.client.pacs.credentials import read_headers, read_private
from stillroom.client.pacs.journal import Verdict, opened
from stillroom.common.errors import ConfigError, DataError, TrustError


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """The last line about a series counts, and the key stays."""
    with opened(tmp_path) as (journal, key):
        journal.add(Verdict("a", "complete", 3))
        journal.add(Verdict("b", "refused", code="STR-423"))
        journal.add(Verdict("a", "complete", 5))
    with opened(tmp_path) as (journal, again):
        assert journal.verdict("a") == Verdict("a", "complete", 5)
        assert journal.verdict("b") == Verdict("b", "refused", code="STR-423")
        assert journal.verdict("c") is None
        assert again == key
    for name in ("journal.jsonl", "key", "lock"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_cut_at_any_byte(tmp_path: Path) -> None:
    """Whatever a kill left of the last line: the whole lines before it count, and it goes on after them."""
    with opened(tmp_path) as (journal, _):
        journal.add(Verdict("a", "complete", 3))
        journal.add(Verdict("b", "complete", 4))
    path = tmp_path / "journal.jsonl"
    raw = path.read_bytes()
    first = raw.index(b"\n") + 1
    for cut in range(first, len(raw)):
        path.write_bytes(raw[:cut])
        with opened(tmp_path) as (journal, _):
            assert journal.verdict("a") is not None
            assert journal.verdict("b") is None
            journal.add(Verdict("c", "complete", 1))
        with opened(tmp_path) as (journal, _):
            assert journal.verdict("c") is not None


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"series": "a", "state": "lost"}', "[1]"])
def test_a_damaged_journal_stops_loudly(tmp_path: Path, line: str) -> None:
    """STR-455 with its line: guessing would fetch, or forget, without saying so."""
    (tmp_path / "journal.jsonl").write_text(f"{line}\n")

    with pytest.raises(DataError) as caught, opened(tmp_path):
        pass
    assert caught.value.code == "STR-455"


def test_one_pull_at_a_time(tmp_path: Path) -> None:
    """A timer that starts while a pull by hand works gets STR-454; afterwards it may."""
    with opened(tmp_path), pytest.raises(DataError) as caught, opened(tmp_path):
        pass
    assert caught.value.code == "STR-454"
    with opened(tmp_path):
        pass


def test_secrets_are_private(tmp_path: Path) -> None:
    """Readable by others is STR-202; absent, empty or no header is STR-101; never quoted."""
    path = tmp_path / "secret"
    path.write_text("X-Token: abc\nauthorization: Bearer d:e\n")
    path.chmod(0o640)
    with pytest.raises(TrustError) as refused:
        read_private(path, "pacs.web.password_file")
    assert refused.value.code == "STR-202"

    path.chmod(0o600)
    assert read_headers(path) == {"X-Token": "abc", "authorization": "Bearer d:e"}
    for content in ("", "secret without colon"):
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            read_headers(path)
        assert caught.value.code == "STR-101"
        assert "without" not in str(caught.value)
    os.unlink(path)  # noqa: PTH108
    with pytest.raises(ConfigError):
        read_private(path, "x")
