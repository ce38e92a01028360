"""Where large arrays live: in memory while the budget lasts, then in files that go away by themselves."""

import math
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Workspace:
    """Allocates zeroed arrays against a budget; what does not fit is mapped from a temporary file.

    Every array whose size grows with the scan comes from here, so that
    ``memory_mib`` bounds what one prediction holds in memory beyond the scan itself and the
    network's own activations for one window. The files are unlinked on exit, and on POSIX
    right after they are opened: a crash leaves nothing of the patient behind.

    Args:
        memory_mib: Budget for arrays in memory.
        folder: Where files go; must be on the site's own disk.
    """

    def __init__(self, memory_mib: float, folder: Path) -> None:
        self.left = int(memory_mib * 2**20)
        self.spilled = 0
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.left = 0

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A zeroed array; counted against the budget, or spilled to a file when that is used up."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self.left or size == 0:
            self.left -= size
            return np.zeros(shape, dtype)
        self.spilled += size
        with tempfile.TemporaryFile(dir=self._folder) as stream:
            stream.truncate(size)
            return np.memmap(stream, dtype=dtype, mode="r+", shape=shape)

    def give_back(self, array: NDArray[Any]) -> None:
        """Return an array's bytes to the budget; the caller must drop it."""
        if not isinstance(array, np.memmap):
            self.left += array.nbytes
