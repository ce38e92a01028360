"""Parts of an encoded update: a plane of bytes, packed without loss where that pays.

A part is one byte (0 raw, 1 zstd), the length as u32, and that many bytes. Only planes that a sample
says are compressible go through zstd; the others are stored as they are, at no cost.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from zstandard import (
    ZstdCompressionParameters,
    ZstdCompressor,
    ZstdDecompressor,
    ZstdError,
    get_frame_parameters,
)

from stillroom.common.errors import ContractError
from stillroom.common.weightfile import HashedInput, HashedOutput, raw_bytes

OVERHEAD = 5
"""Bytes before every part's own."""
RAW, ZSTD = 0, 1
SAMPLE = 4096
"""Bytes looked at before a plane is packed."""
WORTH_IT = 0.97
"""A plane whose sample shrinks to no less than this is stored raw."""


class PartWriter:
    """Writes parts to ``out``. Not for two threads at once."""

    def __init__(self, out: HashedOutput) -> None:
        self._out = out
        # Matches are rare in weights; what shrinks is the alphabet (Huffman). A match finder that
        # looks for long repeats only, in a tiny table, is twice as fast and packs tighter.
        settings = ZstdCompressionParameters.from_level(
            1, min_match=7, hash_log=6, write_checksum=False, write_content_size=True
        )
        self._zstd = ZstdCompressor(compression_params=settings)

    def write(self, values: NDArray[Any]) -> None:
        """Append the bytes of a contiguous array."""
        raw = raw_bytes(values)
        packed = self._pack(raw)
        method, data = (RAW, raw) if packed is None else (ZSTD, packed)
        self._out.write(bytes([method]) + len(data).to_bytes(4, "little"))
        self._out.write(data)

    def _pack(self, raw: memoryview) -> bytes | None:
        """A zstd frame, or None where that would not be smaller."""
        if len(raw) > 4 * SAMPLE:
            sample = np.ascontiguousarray(np.frombuffer(raw, np.uint8)[:: len(raw) // SAMPLE])
            if len(self._zstd.compress(sample.data)) >= WORTH_IT * sample.size:
                return None
        packed: bytes = self._zstd.compress(raw)
        return packed if len(packed) < len(raw) else None


class PartReader:
    """Reads parts from ``source``, whose bytes nobody has checked."""

    def __init__(self, source: HashedInput) -> None:
        self._source = source
        self._zstd = ZstdDecompressor(max_window_size=1 << 20)

    def read(self, count: int, dtype: str) -> NDArray[Any]:
        """The next part, which holds ``count`` values of ``dtype``: no more is ever allocated.

        Raises:
            ContractError: STR-300, it is not one.
        """
        size = count * np.dtype(dtype).itemsize
        head = self._source.take(OVERHEAD)
        length = int.from_bytes(head[1:], "little")
        # A packed part is only ever written where it is smaller.
        if head[0] > ZSTD or (length != size if head[0] == RAW else length >= size):
            raise _not_a_part()
        data = self._source.take(length)
        return np.frombuffer(data if head[0] == RAW else self._unpack(data, size), dtype)

    def _unpack(self, packed: bytearray, size: int) -> bytes:
        try:
            # The decoder allocates what the frame's header announces: look before it does.
            announced = get_frame_parameters(packed)
            if (
                announced.content_size != size
                or announced.window_size > max(size, 1024)
                or announced.dict_id
            ):
                raise _not_a_part()
            plane: bytes = self._zstd.decompress(
                packed, max_output_size=size, allow_extra_data=False
            )
        except ZstdError as error:
            raise _not_a_part() from error
        if len(plane) != size:
            raise _not_a_part()
        return plane


def _not_a_part() -> ContractError:
    return ContractError(
        "A part of an encoded update is not one, or not of the size its manifest gives it.",
        fix="Check that site and server run the same release.",
    )
