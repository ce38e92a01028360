"""Faults, each injected for real, and what the doctor has to say about it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from place import Place

from stillroom.client.doctor.examination import Examination

View = TypeVar("View")
"""What a doctor is given while a fault is there: an examination of a site, or words of a server's command."""
Injection = Callable[[Place, Path], AbstractContextManager[View]]


@dataclass(frozen=True)
class Fault(Generic[View]):
    """One thing that is wrong.

    Attributes:
        name: For the table.
        how: How it is injected.
        inject: Given the place and a copy of the configuration.
        check: Which check has to name it.
        code: With which code.
        words: That have to be in what it saw or in what to do.
        outcome: With which outcome.
        also: Other checks that rightly complain with it.
    """

    name: str
    how: str
    inject: Injection[View]
    check: str
    code: str
    words: tuple[str, ...] = ()
    outcome: str = "failed"
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row(Generic[View]):
    """A fault and what became of it.

    Attributes:
        fault: What was injected.
        named: Whether the right check said so, and no wrong one.
        said: What it saw.
        wrong: Checks that complained without reason, or what else went wrong.
        seconds: How long the doctor looked.
    """

    fault: Fault[View]
    named: bool
    said: str
    wrong: str
    seconds: float


class Faults(list[Fault[View]]):
    """A table of them.

    Args:
        usual: What a fault that yields nothing is looked at with, given the configuration.
    """

    def __init__(self, usual: Callable[[Path], View]) -> None:
        super().__init__()
        self._usual = usual

    def enter(
        self,
        name: str,
        how: str,
        check: str,
        code: str,
        *words: str,
        outcome: str = "failed",
        also: tuple[str, ...] = (),
    ) -> Callable[[Callable[[Place, Path], Iterator[View | None]]], Injection[View]]:
        """Decorates a generator, which yields while its fault is there; it may yield another view."""

        def enter(made: Callable[[Place, Path], Iterator[View | None]]) -> Injection[View]:
            manager = contextlib.contextmanager(made)

            @contextlib.contextmanager
            def inject(place: Place, config: Path) -> Iterator[View]:
                with manager(place, config) as view:
                    yield self._usual(config) if view is None else view

            self.append(Fault(name, how, inject, check, code, words, outcome, also))
            return inject

        return enter

    def tried(
        self,
        only: str,
        attempt: Callable[[Fault[View]], Row[View]],
        say: Callable[[str], None],
        side: str = "",
    ) -> list[Row[View]]:
        """What became of each whose name has ``only`` in it; a line for each, at once."""
        rows = []
        for one in self:
            if only in one.name:
                row = attempt(one)
                rows.append(row)
                say(
                    f"{'named ' if row.named else 'MISSED'} {side}{one.name}: {row.said} {row.wrong}"
                )
        return rows


FAULTS = Faults(lambda config: Examination(config, patience_s=1.5))
fault = FAULTS.enter
