"""A pull, from a list of wishes to complete series: the order of things, and what ends what.

One bad line, study or series never stops the rest; a PACS that is gone, a full disk and closed
hours do, and the same command goes on from there. A series counts when every instance the PACS
lists, and as many as it states, lie on disk.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from stillroom.client.pacs.archive import Archive, Series
from stillroom.client.pacs.deidentify import Deidentifier
from stillroom.client.pacs.failures import STOPPING, failure
from stillroom.client.pacs.hours import LOOK_S, Pace, Window
from stillroom.client.pacs.journal import Journal, Verdict
from stillroom.client.pacs.reception import Reception
from stillroom.client.pacs.section import PacsSection
from stillroom.client.pacs.shelf import MIB, Shelf
from stillroom.client.pacs.wishes import Wish
from stillroom.common.errors import DataError, StillroomError

Result = TypeVar("Result")
State = Literal["complete", "already", "refused", "failed"]

FOR_GOOD = frozenset({"STR-423", "STR-456"})
"""What a series is refused for, so that it is not asked for again."""
PAUSES_S = (2.0, 10.0, 30.0)
"""Before a PACS that broke off is asked again; then the pull ends."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one series, or of a line that led to none.

    Attributes:
        line: Of the list; 0 for a query.
        state: ``failed`` is asked for again by the next run; ``refused`` is not.
        code: Why, where it is neither complete nor already here.
        what: In one sentence; without anything a PACS sent.
        fix: What to do about it.
        count: Instances on disk.
    """

    line: int
    state: State
    code: str = ""
    what: str = ""
    fix: str = ""
    count: int = 0


@dataclass(slots=True)
class Summary:
    """Everything a pull did; ``ended`` is why it ended early, None when it came to its end."""

    outcomes: list[Outcome] = field(default_factory=list)
    instances: int = 0
    bytes: int = 0
    ended: StillroomError | None = None

    def count(self, state: State) -> int:
        """Series, or lines, in this state."""
        return sum(1 for one in self.outcomes if one.state == state)


class Watcher:
    """Told what goes on. Does nothing; the command line draws bars."""

    def line(self, number: int, total: int) -> None:
        """The ``number``-th of ``total`` wishes begins."""

    def series(self, expected: int) -> None:
        """A series of so many instances begins."""

    def instance(self, size: int) -> None:
        """One instance was written."""

    def waits(self, until: str) -> None:
        """The window is closed."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Time, as a pull sees it; tests bring their own.

    Attributes:
        window: None means always.
        is_patient: Wait for the window; else the pull ends with STR-450.
        now: Local time.
        sleep: Seconds.
        pauses_s: Between attempts.
    """

    window: Window | None = None
    is_patient: bool = True
    now: Callable[[], datetime] = lambda: datetime.now().astimezone()
    sleep: Callable[[float], object] = time.sleep
    pauses_s: Sequence[float] = PAUSES_S

    def wait(self, watcher: Watcher) -> None:
        """Return once the PACS may be asked.

        Raises:
            DataError: It may not, and nobody wants to wait (STR-450).
        """
        while self.window is not None and not self.window.is_open(self.now()):
            if not self.is_patient:
                raise DataError(
                    f"The PACS may be asked only at {self.window}.",
                    fix="Run it then, leave --no-wait out, or say --now.",
                    code="STR-450",
                )
            watcher.waits(str(self.window).partition("-")[0])
            self.sleep(LOOK_S)


class Pull:
    """One run over a list. ``run`` may be called once."""

    def __init__(
        self,
        archive: Archive,
        pacs: PacsSection,
        journal: Journal,
        key: bytes,
        *,
        names: Sequence[str] = (),
        rhythm: Rhythm | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._archive, self._pacs, self._journal = archive, pacs, journal
        self._shelf = Shelf(pacs.folder, key, pacs.keep_free_mib)
        self._rhythm = rhythm or Rhythm(None if pacs.hours is None else Window.parse(pacs.hours))
        self._watcher = watcher or Watcher()
        rate = pacs.most_mib_per_s
        self._pace = Pace(None if rate is None else rate * MIB, sleep=self._rhythm.sleep)
        self._deidentifier: Deidentifier | None = None
        if pacs.deidentify:
            self._deidentifier = Deidentifier.make(
                key, [*names, *pacs.structures], retains_uids=pacs.uids == "retain"
            )
        self._modalities = ("CT", "SEG", "RTSTRUCT") if pacs.labels else ("CT",)
        self.summary = Summary()

    def run(self, wishes: Sequence[Wish]) -> Summary:
        """Everything that can be had; raises nothing that can be expected."""
        with warnings.catch_warnings():
            # pydicom warns with the odd value in the text, which may be a patient's.
            warnings.simplefilter("ignore")
            try:
                for number, wish in enumerate(wishes, 1):
                    self._watcher.line(number, len(wishes))
                    self._rhythm.wait(self._watcher)
                    self._one_wish(wish)
            except StillroomError as error:
                self.summary.ended = error
        return self.summary

    def _one_wish(self, wish: Wish) -> None:
        try:
            found = self._again(lambda: self._found(wish))
        except DataError as error:
            if error.code in STOPPING or error.code == "STR-446":
                raise
            self._note(wish, "failed", error)
            return
        for series in found:
            self._rhythm.wait(self._watcher)
            self._one_series(wish, series)

    def _found(self, wish: Wish) -> list[Series]:
        """Series of a wish.

        Raises:
            DataError: None (STR-448), or too many studies (STR-446).
        """
        studies = self._archive.studies(wish.study, self._pacs.most_studies)
        if len(studies) > self._pacs.most_studies:
            raise DataError(
                f"The query matches more than {self._pacs.most_studies} studies.",
                fix="Narrow it down, or raise most_studies in [pacs].",
                code="STR-446",
            )
        found = [
            series
            for study in studies
            for series in self._archive.series(study, wish.series, self._modalities)
        ]
        if not found:
            what = "no study" if not studies else "no series of a kind that is pulled"
            raise DataError(
                f"The PACS holds {what} that matches.",
                fix="Check these lines against the PACS; old studies may have to be brought back first.",
                code="STR-448",
            )
        return found

    def _one_series(self, wish: Wish, series: Series) -> None:
        name = self._shelf.name(series.uid)
        verdict = self._journal.verdict(name)
        if verdict is not None and verdict.state == "refused":
            fix = "Nothing to do: it was refused before."
            told = DataError("A series was refused by an earlier pull.", fix=fix, code=verdict.code)
            self._note(wish, "refused", told)
            return
        try:
            is_new, count = self._again(lambda: self._complete(series, verdict))
        except DataError as error:
            # Nothing was ever delivered: then it is this machine's address, not this series.
            is_deaf = error.code == "STR-451" and not self.summary.instances
            if error.code in STOPPING or is_deaf:
                raise
            if error.code in FOR_GOOD:
                self._shelf.drop(series)
                self._journal.add(Verdict(name, "refused", code=error.code))
            self._note(wish, "refused" if error.code in FOR_GOOD else "failed", error)
            return
        outcome = Outcome(wish.line, "complete" if is_new else "already", count=count)
        self.summary.outcomes.append(outcome)

    def _complete(self, series: Series, verdict: Verdict | None) -> tuple[bool, int]:
        """Whether anything was fetched, and how many instances lie here now.

        Raises:
            DataError: Fewer came than there are (STR-449), or what the archive or reception say.
        """
        listed = {self._shelf.name(uid): uid for uid in self._archive.instances(series)}
        expected = max(len(listed), series.stated or 0)
        place = self._shelf.place(series)
        if place.exists() and _is_whole(self._shelf.held(place), set(listed), expected):
            held = self._shelf.held(place)
            if verdict is None:
                # A kill between the rename and the journal.
                self._journal.add(Verdict(self._shelf.name(series.uid), "complete", len(held)))
            return False, len(held)
        held = self._shelf.open(series)
        self._watcher.series(max(0, expected - len(held)))
        missing = [uid for name, uid in listed.items() if name not in held]
        if missing or not listed:
            wanted = missing if held and listed else None
            self._archive.fetch(series, wanted, self._reception(series))
            held = self._shelf.held(self._shelf.incoming(series))
        if not held or not _is_whole(held, set(listed), expected):
            raise failure("STR-449", f"Instances here: {len(held)}; the PACS states {expected}.")
        self._shelf.finish(series)
        self._journal.add(Verdict(self._shelf.name(series.uid), "complete", len(held)))
        return True, len(held)

    def _reception(self, series: Series) -> Reception:
        return Reception(series, self._shelf, self._pace, self._deidentifier, self._told)

    def _told(self, size: int) -> None:
        self.summary.instances += 1
        self.summary.bytes += size
        self._watcher.instance(size)

    def _again(self, step: Callable[[], Result]) -> Result:
        """``step``, and again after a pause where the PACS broke off or sent too little."""
        for pause_s in self._rhythm.pauses_s:
            try:
                return step()
            except DataError as error:
                is_short = error.code == "STR-449" and pause_s == self._rhythm.pauses_s[0]
                if error.code != "STR-440" and not is_short:
                    raise
            self._rhythm.sleep(pause_s)
            self._rhythm.wait(self._watcher)
        return step()

    def _note(self, wish: Wish, state: State, error: StillroomError) -> None:
        self.summary.outcomes.append(Outcome(wish.line, state, error.code, error.what, error.fix))


def _is_whole(held: set[str], listed: set[str], expected: int) -> bool:
    return listed <= held and len(held) >= expected
