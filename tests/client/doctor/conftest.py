"""A hospital on disk, without a server: most of what can be wrong is wrong at home."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "doctor"))

from place import Place  # from the folder of the matrix


class Quiet(Place):
    """A place whose server is away."""

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Nobody listens."""
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Founded once; faults are done to copies."""
    made = Quiet(tmp_path_factory.mktemp("canary-home") / "consortium", port=9, host="127.0.0.1")
    made.found()
    return made
