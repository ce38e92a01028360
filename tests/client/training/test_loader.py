"""Batches drawn ahead are the same batches."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from stillroom.client.training.loader import batches_of


class Source:
    """Counts; says who drew."""

    def __init__(self, broken_at: int = -1) -> None:
        self.drawn, self.broken_at, self.names = 0, broken_at, set[str]()

    def draw(self) -> Any:
        """The next number."""
        self.names.add(threading.current_thread().name)
        self.drawn += 1
        if self.drawn == self.broken_at:
            raise OSError("no more disk")
        return SimpleNamespace(number=self.drawn)


@pytest.mark.parametrize("ahead", [True, False])
def test_order_and_number_are_kept(ahead: bool) -> None:
    """As many as asked for, in order, by one thread, which is gone afterwards."""
    source = Source()

    with batches_of(source, 4, ahead=ahead) as batches:
        numbers = [batches.draw().number for _ in range(4)]

    assert numbers == [1, 2, 3, 4]
    assert source.drawn == 4
    assert len(source.names) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_the_next_is_drawn_before_it_is_asked_for() -> None:
    """While the first batch is in use, the second is already there."""
    source = Source()

    with batches_of(source, 3, ahead=True) as batches:
        batches.draw()
        for _ in range(500):
            if source.drawn == 2:
                break
            threading.Event().wait(0.01)
        assert source.drawn == 2


def test_a_round_that_stops_leaves_no_thread() -> None:
    """What the source raises comes out where its batch would have been used."""
    source = Source(broken_at=2)

    with batches_of(source, 9, ahead=True) as batches:
        assert batches.draw().number == 1
        with pytest.raises(OSError, match="disk"):
            batches.draw()

    assert source.drawn == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_nothing_is_drawn_beyond_the_count() -> None:
    """Asking for more is a mistake in the loop."""
    with batches_of(Source(), 1, ahead=True) as batches:
        batches.draw()
        with pytest.raises(ValueError, match="all batches"):
            batches.draw()
