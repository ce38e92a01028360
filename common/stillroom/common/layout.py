"""The beginning of a plain file of weights: what is wrong with it, by its name."""

from io import BufferedReader, RawIOBase
from typing import BinaryIO

from typing_extensions import Buffer, override

from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, wrong_tensor
from stillroom.common.tensorfile import MAX_HEADER, header, layout

SAME_RELEASE = "Check that site and server run the same release."
BUFFER = 1 << 20


def require_layout(head: bytes, manifest: Manifest) -> None:
    """Say by its name what is wrong with the header of a plain file.

    Args:
        head: The file's first bytes: its whole header, or more.
        manifest: What the file should hold.

    Raises:
        ContractError: STR-300, no file that ``tensorfile.serialise`` writes; STR-301, STR-302,
            other tensors.
    """
    expected = header(manifest.layout)
    if head[: len(expected)] == expected:
        return
    try:
        found = layout(head)
    except ValueError as error:
        raise ContractError("The update is not a safetensors file.", fix=SAME_RELEASE) from error
    manifest.require_names(found)
    for spec in manifest.tensors:
        dtype, shape = found[spec.name]
        if (dtype, shape) != (spec.dtype, spec.shape):
            raise wrong_tensor(spec, dtype, shape)
    raise ContractError("The update is not a safetensors file.", fix=SAME_RELEASE)


def with_layout(stream: BinaryIO, manifest: Manifest) -> BinaryIO:
    """The same bytes again, once the header that they begin with was found to be the manifest's.

    Raises:
        ContractError: As ``require_layout`` says.
    """
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    while (
        size <= MAX_HEADER and len(head) < 8 + size and (more := stream.read(8 + size - len(head)))
    ):
        head += more
    require_layout(head, manifest)
    return BufferedReader(_Behind(head, stream), BUFFER)


class _Behind(RawIOBase):
    """Bytes that were read already, and then the rest of their stream."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    @override
    def readable(self) -> bool:
        """Yes."""
        return True

    @override
    def readinto(self, buffer: Buffer) -> int:
        """As asked."""
        view = memoryview(buffer).cast("B")
        if not self._head:
            return int(self._stream.readinto(view))  # type: ignore[attr-defined]  # files have it
        data = self._head[: len(view)]
        self._head = self._head[len(data) :]
        view[: len(data)] = data
        return len(data)
