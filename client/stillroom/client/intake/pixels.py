"""Whether a pixel data element is whole, judged by its structure alone (DICOM PS3.5 A.4).

A decoder given half a slice may fill the rest with zeros and call it success. So nothing is
handed to a decoder before the lengths in the file were added up. Only item headers and the two
ends of a code stream are read, never the pixels.
"""

from dataclasses import dataclass
from typing import BinaryIO, Literal

Problem = Literal["unreadable", "no-pixels", "truncated", "undecodable"]

_PIXEL_TAGS = {b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"}
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
_LONG_VR = {b"OB", b"OW", b"UN"}
_HEAD = 4096
"""Bytes of a code stream in which its frame header must start; real ones need a few hundred."""
_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers of JPEG (T.81 table B.1) and JPEG-LS (T.87 C.1.1)."""


@dataclass(frozen=True, slots=True)
class PixelData:
    """Attributes: ``problem`` if any; ``offset`` of the first pixel when uncompressed."""

    problem: Problem | None = None
    offset: int | None = None


def inspect(
    stream: BinaryIO,
    *,
    expected: int,
    matrix: tuple[int, int],
    is_explicit: bool,
    is_big_endian: bool,
    file_size: int,
) -> PixelData:
    """Look at the element ``stream`` stands at.

    Args:
        stream: Open file, at the tag of the pixel data.
        expected: Bytes of the uncompressed pixels.
        matrix: (rows, columns) that the data set claims.
        is_explicit: The element has a value representation.
        is_big_endian: Explicit VR big endian.
        file_size: Bytes in the file.
    """
    if stream.read(4) not in _PIXEL_TAGS:
        return PixelData("no-pixels")
    order: Literal["little", "big"] = "big" if is_big_endian else "little"
    if is_explicit:
        head = stream.read(8)
        if head[:2] not in _LONG_VR:
            return PixelData("truncated")
        length = int.from_bytes(head[4:8], order)
    else:
        length = int.from_bytes(stream.read(4), order)
    offset = stream.tell()
    if length == _UNDEFINED:
        return PixelData(_walk_items(stream, matrix, file_size))
    if length < expected or offset + expected > file_size:
        return PixelData("truncated")
    return PixelData(offset=offset)


def _walk_items(stream: BinaryIO, matrix: tuple[int, int], file_size: int) -> Problem | None:
    """Encapsulated: an offset table, then fragments, then a delimiter; all inside the file."""
    fragments = 0
    last, jpeg = b"", False
    while True:
        head = stream.read(8)
        if len(head) == 8 and head[:4] == _DELIMITER:
            break
        length = int.from_bytes(head[4:8], "little")
        start = stream.tell()
        if len(head) < 8 or head[:4] != _ITEM or start + length > file_size:
            return "truncated"
        if fragments == 1:
            first = stream.read(min(length, _HEAD))
            if _is_other_size(first, matrix):
                return "undecodable"
        if fragments >= 1 and length >= 2:
            stream.seek(start + max(0, length - 4))
            last = stream.read(min(4, length))
            stream.seek(start)
            is_jpeg = stream.read(2) in {b"\xff\xd8", b"\xff\x4f"}
            jpeg = is_jpeg or (fragments > 1 and jpeg)
        fragments += 1
        stream.seek(start + length)
    if fragments < 2:
        return "no-pixels"
    # Every JPEG family ends with FFD9, padded to an even length (PS3.5 A.4).
    return "truncated" if jpeg and b"\xff\xd9" not in last else None


def _is_other_size(head: bytes, matrix: tuple[int, int]) -> bool:
    """Whether a code stream's own header claims another matrix than the data set.

    The decoder believes the code stream and would allocate what that says.
    """
    if head[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000 SIZ, T.800 A.5.1
        x, y, x0, y0 = (int.from_bytes(head[i : i + 4], "big") for i in (8, 12, 16, 20))
        return (y - y0, x - x0) != matrix
    if head[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        if head[at + 1] in _SOF:
            rows, columns = (int.from_bytes(head[at + i : at + i + 2], "big") for i in (5, 7))
            return (rows, columns) != matrix
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return False
