"""A kill before each durable step of a pull, one after the other; then the same command again."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from stillroom.client.intake.index import scan
from stillroom.client.pacs.archive import Series, Sink
from stillroom.client.pacs.journal import opened
from stillroom.client.pacs.pull import Pull, Rhythm, Summary
from stillroom.client.pacs.section import PacsSection
from stillroom.client.pacs.wishes import Wish
from stillroom.common.errors import DataError


class Killed(BaseException):
    """Nothing catches it, and nothing of ours runs after it."""


class Shelves:
    """An archive in memory that counts what it hands out."""

    def __init__(self, *series: Sequence[Dataset]) -> None:
        self.held = {str(one[0].SeriesInstanceUID): one for one in series}
        self.fetched = 0

    def studies(self, keys: Mapping[str, str], most: int) -> Sequence[str]:
        """One study holds all."""
        return ["1.2"]

    def series(self, *_: Any) -> Sequence[Series]:
        """Both series, with their counts."""
        return [Series("1.2", uid, "CT", len(slices)) for uid, slices in self.held.items()]

    def instances(self, series: Series) -> Sequence[str]:
        """In order."""
        return [str(one.SOPInstanceUID) for one in self.held[series.uid]]

    def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Sink) -> None:
        """One after the other."""
        for one in self.held[series.uid]:
            if wanted is None or one.SOPInstanceUID in wanted:
                self.fetched += 1
                sink(one)


def pull(archive: Any, folder: Path) -> Summary:
    pacs = PacsSection.model_validate(
        {
            "web": {"url": "http://127.0.0.1:9/x"},
            "folder": folder / "data/pulled",
            "state": folder / "pull",
            "keep_free_mib": 0,
        }
    )
    with opened(pacs.state) as (journal, key):
        asked = Wish(1, {"StudyInstanceUID": "1.2"}, {})
        return Pull(archive, pacs, journal, key, rhythm=Rhythm(pauses_s=())).run([asked])


STEPS = ("replace", "rename", "fsync", "write", "mkdir")


class Fuse:
    """Raises at the n-th call of a step that changes the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left, self.seen = left, 0
        for name in STEPS:
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, until the fuse is out."""

        def step(*arguments: Any, **more: Any) -> Any:
            self.seen += 1
            if self.seen > self.left:
                raise Killed
            return call(*arguments, **more)

        return step


def test_killed_before_every_step(
    tmp_path: Path, ct_series: Callable[..., Sequence[Dataset]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake sees whole series or none; only the instance in flight comes twice; at last all are there."""
    series = ct_series(3), ct_series(2)
    (tmp_path / "unharmed").mkdir()
    with monkeypatch.context() as patch:
        fuse = Fuse(patch, 10**9)
        pull(Shelves(*series), tmp_path / "unharmed")
    assert fuse.seen > 20

    for left in range(fuse.seen):
        archive, folder = Shelves(*series), tmp_path / str(left)
        folder.mkdir()
        with monkeypatch.context() as patch:
            Fuse(patch, left)
            with pytest.raises(Killed):
                pull(archive, folder)
        (folder / "data").mkdir(exist_ok=True)
        seen = scan(folder / "data", state=folder / "state", min_slices=1).entries
        assert {len(entry.files) for entry in seen} <= {2, 3}

        summary = pull(archive, folder)

        assert {one.state for one in summary.outcomes} <= {"complete", "already"}, left
        entries = scan(folder / "data", state=folder / "state", min_slices=1).entries
        assert sorted(len(entry.files) for entry in entries) == [2, 3]
        assert archive.fetched <= 6


def test_objects_of_other_series_stop_nothing(
    tmp_path: Path, ct_series: Callable[..., Sequence[Dataset]]
) -> None:
    """What nobody asked for is refused; the series it came with is neither lost nor refused for good."""
    mine, other = ct_series(2), ct_series(1)

    class Mixed(Shelves):
        strays = 1

        def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Sink) -> None:
            """A stray first, as a PACS with a mixed-up index would."""
            if self.strays:
                self.strays -= 1
                sink(other[0])
            super().fetch(series, wanted, sink)

    archive = Mixed(mine)

    first, second = pull(archive, tmp_path), pull(archive, tmp_path)

    assert [(one.state, one.code) for one in first.outcomes] == [("failed", "STR-453")]
    assert [one.state for one in second.outcomes] == ["complete"]


def test_a_full_disk_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is taken back: the next run neither stumbles over it nor believes it."""
    from stillroom.client.pacs.journal import Verdict

    with opened(tmp_path) as (journal, _):
        journal.add(Verdict("a", "complete", 1))
        with monkeypatch.context() as patch:
            real = os.write

            def full(descriptor: int, data: bytes) -> int:
                real(descriptor, data[:9])
                raise OSError(28, "No space left on device")

            patch.setattr(os, "write", full)
            with pytest.raises(DataError) as caught:
                journal.add(Verdict("b", "complete", 1))
        assert caught.value.code == "STR-452"
        journal.add(Verdict("c", "complete", 1))
    with opened(tmp_path) as (journal, _):
        assert [journal.verdict(name) is not None for name in "abc"] == [True, False, True]
