"""In which order answers are used, whoever was faster. Pure."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Hands out what was put in, in the order of names, as soon as each one's turn is certain.

    Sums of float32 depend on their order; with a fixed one, equal answers give an equal model.

    Args:
        names: Everybody who may put something in.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)
        self._ready: dict[str, T] = {}

    def put(self, name: str, value: T) -> Iterator[tuple[str, T]]:
        """What can be used now that ``name`` is here: it, and those behind it that waited for it."""
        self._ready[name] = value
        while self._names and self._names[0] in self._ready:
            yield self._take()

    def rest(self) -> Iterator[tuple[str, T]]:
        """What is left once nobody is waited for any more."""
        while self._names:
            if self._names[0] in self._ready:
                yield self._take()
            else:
                self._names.pop(0)

    def _take(self) -> tuple[str, T]:
        name = self._names.pop(0)
        return name, self._ready.pop(name)
