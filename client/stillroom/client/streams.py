"""A file that is copied as it is read: whoever looks at its bytes has looked at the copy's."""

import io
from typing import BinaryIO

from typing_extensions import Buffer, override


class Copying(io.RawIOBase):
    """Reads ``source``; whatever is read is written to ``sink`` before it is handed out.

    Args:
        source: Open for reading.
        sink: Open for writing.
    """

    def __init__(self, source: io.RawIOBase, sink: BinaryIO) -> None:
        super().__init__()
        self._source, self._sink = source, sink

    @override
    def readable(self) -> bool:
        """Yes."""
        return True

    @override
    def readinto(self, buffer: Buffer) -> int:
        """Up to as many bytes as fit.

        Once they are in ``buffer``, which is the caller's, nobody changes them any more.
        """
        view = memoryview(buffer).cast("B")
        count = self._source.readinto(view) or 0
        self._sink.write(view[:count])
        return count
