"""What the server itself carries from one round of a stage to the next.

``residual``: what encoding the last model's change lost. ``first``, ``second``: moments of an adaptive
optimiser. ``average``: the moving average of the models. Each is a file of weights whose name holds the
stage and the round that wrote it. A round reads the files of the round before and writes its own, so
that a round that is not committed can be made again from the same past; which round counts is said by
the run's state alone.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillroom.common.errors import TrustError
from stillroom.common.manifest import BLOCK, Manifest
from stillroom.common.tensorfile import header
from stillroom.common.weightfile import HashedOutput, WeightReader, durable_stream

RESIDUAL, FIRST, SECOND, AVERAGE = "residual", "first", "second", "average"


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one stage at one round.

    Attributes:
        folder: Exists; this run's alone.
        stage: Name of the stage.
        round: 1-based, the round that is being made.
        last: It is the stage's last one, after which an average takes the model's place.
    """

    folder: Path
    stage: str
    round: int
    last: bool = False

    def before(self, kind: str) -> Path | None:
        """The file that the round before left; None at the first round.

        Raises:
            TrustError: STR-204, it is gone. Going on without it would give another model than
                an undisturbed run, and nobody would know.
        """
        if self.round <= 1:
            return None
        path = self._path(kind, self.round - 1)
        if not path.is_file():
            raise TrustError(
                f"The server's {kind} of stage {self.stage}, round {self.round - 1}, is missing.",
                fix="Restore the run folder from a copy, or start the study again.",
                code="STR-204",
            )
        return path

    def after(self, kind: str) -> Path:
        """The file that this round writes."""
        return self._path(kind, self.round)

    def all_before(self) -> list[Path]:
        """Every file that the round before left."""
        return sorted(self.folder.glob(f"{self.stage}.{self.round - 1:06d}.*.safetensors"))

    def forget(self) -> None:
        """Remove what earlier rounds left: for after the commit of this one."""
        for path in self.folder.glob(f"{self.stage}.*.safetensors"):
            stage, number, *_ = path.name.split(".")
            if stage == self.stage and number.isdigit() and int(number) < self.round:
                path.unlink(missing_ok=True)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{self.stage}.{number:06d}.{kind}.safetensors"


class Carried:
    """One file of the memory: the past is read and the present written, block by block in step.

    Args:
        stack: Closes the files; the new one is there, durably, once it has closed without an error.
        memory: Of the stage at this round.
        kind: Which file.
        manifest: Its tensors, all float32.
        start: Every value before the first round.
    """

    def __init__(
        self, stack: ExitStack, memory: Memory, kind: str, manifest: Manifest, *, start: float = 0.0
    ) -> None:
        before = memory.before(kind)
        self._old: WeightReader | None = None
        if before is not None:
            past = stack.enter_context(before.open("rb", buffering=0))
            self._old = WeightReader(past, manifest, hashed=False)
        stream = stack.enter_context(durable_stream(memory.after(kind)))
        self._new = HashedOutput(stream, hashed=False)
        self._new.write(header(manifest.layout))
        self._start = np.float32(start)
        self._buffer = np.empty(BLOCK, np.float32)

    def read(self, count: int) -> NDArray[np.float32]:
        """The next values, at most ``BLOCK``; valid until the next call, and free to be changed."""
        block = self._buffer[:count]
        if self._old is None:
            block[:] = self._start
        else:
            self._old.read(block)
        return block

    def write(self, block: NDArray[np.float32]) -> None:
        """Append values."""
        self._new.put(block)

    def finish(self) -> None:
        """After the last block; ContractError STR-300 when the past holds more."""
        if self._old is not None:
            self._old.finish()
