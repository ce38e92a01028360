"""Writes the next global model beside its change and the server's memory, in one walk over the old.

Whole weights: ``new = mean``, or ``base + step(mean - base)`` where the server has an optimiser. Where a
moving average is kept, it is the last round's ``new``.
Changes: ``value = step(mean) + residual`` is encoded, ``new = base + decoded`` is what every site will
compute from the file, and ``value - decoded`` is the residual of the next round (error feedback:
Seide et al. 2014; Karimireddy et al. 2019, algorithm 2).
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stillroom.common.encoding import FP32, BlobWriter
from stillroom.common.manifest import BLOCK, Manifest, TensorSpec
from stillroom.common.study import Aggregation
from stillroom.common.tensorfile import header
from stillroom.common.weightfile import HashedOutput, WeightReader, durable_stream
from stillroom.server.rounds import adaptive
from stillroom.server.rounds.memory import AVERAGE, FIRST, RESIDUAL, SECOND, Carried, Memory

MODEL, CHANGE = "next.model", "next.change"
"""Names of the files until their digests are known."""

Floats = NDArray[np.float32]


class Successor:
    """Files of one round; a context manager: what it wrote is there, durably, once it has closed.

    An error inside leaves no file. Memory is one tensor and a few blocks.

    Args:
        base: File of the old model.
        manifest: The stage's tensors.
        encoding: The stage's encoding.
        rules: The stage's aggregation.
        folder: Where ``MODEL`` and, for delta encodings, ``CHANGE`` are written.
    """

    def __init__(
        self, base: Path, manifest: Manifest, encoding: str, rules: Aggregation, folder: Path
    ) -> None:
        self._manifest, self._rules, self._whole = manifest, rules, encoding == FP32
        self._stack = ExitStack()
        with ExitStack() as stack:
            old = stack.enter_context(base.open("rb", buffering=0))
            self._base = WeightReader(old, manifest, hashed=False)
            self._model = HashedOutput(stack.enter_context(durable_stream(folder / MODEL)))
            self._model.write(header(manifest.layout))
            self._change: BlobWriter | None = None
            if not self._whole:
                change = stack.enter_context(durable_stream(folder / CHANGE))
                self._change = BlobWriter(change, encoding, manifest)
            self._stack = stack.pop_all()
        self._carried: dict[str, Carried] = {}
        self._first, self._last = False, False
        self._buffer = np.empty(BLOCK, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def open(self, memory: Memory) -> None:
        """Open the memory that the stage needs; TrustError STR-204 where its past is missing."""
        floats = Manifest(
            tensors=tuple(spec for spec in self._manifest.tensors if spec.dtype == "float32")
        )
        kinds = [] if self._whole else [RESIDUAL]
        if adaptive.is_adaptive(self._rules):
            kinds += [FIRST, SECOND]
        if self._rules.average is not None:
            kinds.append(AVERAGE)
        self._first, self._last = memory.round == 1, memory.last
        for kind in kinds:
            moment = kind in {FIRST, SECOND}
            start = adaptive.start_of(kind, self._rules) if moment else 0.0
            self._carried[kind] = Carried(self._stack, memory, kind, floats, start=start)

    def put(self, spec: TensorSpec, mean: NDArray[Any] | None) -> None:
        """Write one tensor, the next in file order.

        Args:
            spec: The tensor.
            mean: What the sites made of it: weights for ``fp32``, a change for delta encodings,
                new values where it is not float32. Written over. None: nobody trained its group,
                which then keeps its weights and its memory.
        """
        if spec.dtype != "float32":
            self._put_other(spec, mean)
        elif self._change is not None:
            self._put_change(spec, mean, self._change)
        else:
            self._put_whole(spec, mean)

    def finish(self) -> tuple[tuple[str, int], tuple[str, int] | None]:
        """SHA-256 and size of the model, and of its change; after the last tensor."""
        self._base.finish()
        for carried in self._carried.values():
            carried.finish()
        return self._model.finish(), None if self._change is None else self._change.finish()

    def _put_whole(self, spec: TensorSpec, mean: Floats | None) -> None:
        for start, count in _blocks(spec):
            base = self._buffer[:count]
            self._base.read(base)
            if mean is None:
                self._keep(FIRST, SECOND, count=count)
                self._model.put(self._averaged(base))
                continue
            block = mean.reshape(-1)[start : start + count]
            if FIRST in self._carried:
                block = base + self._step(block - base)
            self._model.put(self._averaged(block))

    def _put_change(self, spec: TensorSpec, mean: Floats | None, writer: BlobWriter) -> None:
        # 1. What shall be added, and what earlier rounds still owe.
        value = np.zeros(spec.shape, np.float32) if mean is None else mean
        flat = value.reshape(-1)
        for start, count in _blocks(spec) if mean is not None else ():
            block = flat[start : start + count]
            if FIRST in self._carried:
                block[:] = self._step(block)
            block += self._carried[RESIDUAL].read(count)
        # 2. What everybody will read of it, block by block: the new model as they will compute it,
        #    and what is owed now.
        for start, change in writer.blocks(spec.name, value):
            base = self._buffer[: change.size]
            self._base.read(base)
            np.add(base, change, out=base)
            self._model.put(base)
            if mean is None:
                self._keep(RESIDUAL, FIRST, SECOND, count=change.size)
            else:
                block = flat[start : start + change.size]
                np.subtract(block, change, out=block)
                self._carried[RESIDUAL].write(block)

    def _put_other(self, spec: TensorSpec, mean: NDArray[Any] | None) -> None:
        value = np.empty(spec.shape, spec.dtype)
        self._base.read(value)
        if mean is not None:
            value = mean
        if self._change is not None:
            self._change.add(spec.name, value)
        self._model.put(value)

    def _step(self, change: Floats) -> Floats:
        first, second = (self._carried[kind].read(change.size) for kind in (FIRST, SECOND))
        step = adaptive.step(change, first, second, self._rules)
        self._carried[FIRST].write(first)
        self._carried[SECOND].write(second)
        return step

    def _averaged(self, block: Floats) -> Floats:
        """What is written of the new model's ``block``: itself, and its average in the last round."""
        rate = self._rules.average
        if rate is None:
            return block
        average = self._carried[AVERAGE].read(block.size)
        if self._first:  # There is no model before the first: initial weights are nobody's.
            average[:] = block
        else:
            average *= np.float32(rate)
            average += np.float32(1 - rate) * block
        self._carried[AVERAGE].write(average)
        return average if self._last else block

    def _keep(self, *kinds: str, count: int) -> None:
        for kind in kinds:
            if kind in self._carried:
                self._carried[kind].write(self._carried[kind].read(count))


def _blocks(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    size = math.prod(spec.shape)
    for start in range(0, size, BLOCK):
        yield start, min(BLOCK, size - start)
