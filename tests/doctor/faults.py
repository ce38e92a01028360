"""Faults, each injected for real, and what the doctor has to say about it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from place import Place

from stillroom.client.doctor.examination import Examination

Injection = Callable[[Place, Path], AbstractContextManager[Examination]]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: For the table.
        how: How it is injected.
        inject: Given the place and a copy of the hospital's site.toml.
        check: Which check has to name it.
        code: With which code.
        words: That have to be in what it saw or in what to do.
        outcome: With which outcome.
        also: Other checks that rightly fail with it.
    """

    name: str
    how: str
    inject: Injection
    check: str
    code: str
    words: tuple[str, ...] = ()
    outcome: str = "failed"
    also: tuple[str, ...] = ()


FAULTS: list[Fault] = []


def fault(
    name: str,
    how: str,
    check: str,
    code: str,
    *words: str,
    outcome: str = "failed",
    also: tuple[str, ...] = (),
) -> Callable[[Callable[[Place, Path], Iterator[Examination | None]]], Injection]:
    """Enter a generator, which yields while its fault is there, into the table.

    It may yield another examination than the usual one.
    """

    def enter(made: Callable[[Place, Path], Iterator[Examination | None]]) -> Injection:
        manager = contextlib.contextmanager(made)

        @contextlib.contextmanager
        def inject(place: Place, config: Path) -> Iterator[Examination]:
            with manager(place, config) as exam:
                yield exam or Examination(config, patience_s=1.5)

        FAULTS.append(Fault(name, how, inject, check, code, words, outcome, also))
        return inject

    return enter
