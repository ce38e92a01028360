"""What a stage remembers at a site between two rounds, such as its optimiser's moments.

Nothing that a round remembers counts before the round's answer does. ``save`` writes a file under
the SHA-256 of its bytes; the answer, when it is committed, names that file (``client.answers``).
So a round that is asked twice, or was killed at any moment, starts from the same memory each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from typing_extensions import override

from stillroom.common.errors import ResourceError, TrustError
from stillroom.common.tensorfile import read_weights, write_weights

Remembered = Mapping[str, NDArray[Any]]
"""Name -> array, both the recipe's own affair; any dtype of ``tensorfile``."""


class Memory(Protocol):
    """One stage's memory as one round sees it."""

    def load(self) -> dict[str, NDArray[Any]] | None:
        """What the latest committed round before this one saved; the caller's own arrays.

        None in a first round, and when the file was lost: the round then starts anew.
        """
        ...

    def save(self, values: Remembered) -> None:
        """Remember ``values`` once this round's answer is committed; a second call replaces."""
        ...

    @property
    def saved(self) -> str | None:
        """Name of what this round has saved, for its answer to name."""
        ...


class NoMemory(Memory):
    """For whoever keeps no answers either: every round starts anew."""

    @override
    def load(self) -> None:
        """Nothing."""

    @override
    def save(self, values: Remembered) -> None:
        """Forgotten at once."""

    @property
    @override
    def saved(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class StageMemory(Memory):
    """A memory on disk.

    Args:
        folder: For ``<sha256>.safetensors``.
        before: What the round before left, by its SHA-256; None when there is nothing.

    Attributes:
        saved: What this round has saved, by its SHA-256; for the answer to name.
    """

    folder: Path
    before: str | None = None
    saved: str | None = field(default=None, init=False)

    @override
    def load(self) -> dict[str, NDArray[Any]] | None:
        """As ``Memory`` says; the file is proven by its name."""
        if self.before is None:
            return None
        try:
            return dict(read_weights(self.folder, self.before))
        except TrustError:
            return None

    @override
    def save(self, values: Remembered) -> None:
        """Durable on return; unnamed, and thus nothing, until the answer is committed.

        Raises:
            ResourceError: STR-503, the disk.
        """
        try:
            self.saved = write_weights(self.folder, values)
        except OSError as error:
            raise disk_failed() from error


def disk_failed() -> ResourceError:
    """What is said when a round is finished and cannot be kept."""
    return ResourceError(
        "The runner's disk could not take what a round has learned.",
        fix="Free or mend the disk of `state` and `exchange`; the round is worked out again.",
        code="STR-503",
    )
