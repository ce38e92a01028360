"""A published log as files: read once, decoded as far as it can be, none of it trusted yet."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stillroom.common.canonical import file_digest
from stillroom.common.errors import ContractError
from stillroom.common.log_entries import Entry, parse_entry
from stillroom.common.tlog.checkpoint import Checkpoint
from stillroom.common.tlog.folder import CHECKPOINT
from stillroom.common.tlog.merkle import Tree, leaf_hash
from stillroom.common.tlog.note import Note, Verifier, known, parse_note
from stillroom.common.tlog.tiles import WIDTH, tile_path, unbundle

PARTIAL = re.compile(r"(tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x\d{3}/)*\d{3})\.p/(\d{1,3})")
FULL = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x\d{3}/)*\d{3}")


class Files(Protocol):
    """Files by their path below the log's folder."""

    def names(self) -> list[str]:
        """Every file, sorted."""
        ...

    def read(self, name: str) -> bytes | None:
        """Its bytes; None when it is absent or cannot be read."""
        ...

    def digest(self, name: str) -> str | None:
        """SHA-256 of its bytes, however many, in hex; None as ``read``."""
        ...


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The files of a folder on disk. Links are not followed out of it: they are not files."""

    folder: Path

    def names(self) -> list[str]:
        """As ``Files.names``."""
        found = (path for path in self.folder.rglob("*") if path.is_file() or path.is_symlink())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def read(self, name: str) -> bytes | None:
        """As ``Files.read``."""
        path = self.folder / name
        try:
            return None if path.is_symlink() else path.read_bytes()
        except OSError:
            return None

    def digest(self, name: str) -> str | None:
        """As ``Files.digest``."""
        path = self.folder / name
        try:
            return None if path.is_symlink() else file_digest(path)
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle as it was found.

    Attributes:
        name: Its path.
        width: How many entries it must have.
        entries: What it has; empty when it is not one.
        problem: Why it is not one; empty when it is.
    """

    name: str
    width: int
    entries: list[bytes]
    problem: str = ""


@dataclass(slots=True)
class Contents:
    """Everything in a log, decoded as far as it goes.

    Attributes:
        files: Where it was read from.
        head: What the checkpoint says, whether or not it is signed; None when it says nothing.
        note: The checkpoint as a note.
        head_problem: Why the checkpoint does not count; empty when it does.
        bundles: In order, as many as the checkpoint says there are.
        raw: Entries up to the first bundle that is not whole.
        tree: Over ``raw``.
        entries: ``raw``, parsed; None for what is no entry of ours.
    """

    files: Files
    head: Checkpoint | None = None
    note: Note | None = None
    head_problem: str = ""
    bundles: list[Bundle] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    tree: Tree = field(default_factory=Tree)
    entries: list[Entry | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many entries the checkpoint says there are; those found when it says nothing."""
        return len(self.raw) if self.head is None else self.head.size

    def numbered(self) -> Iterator[tuple[int, Entry]]:
        """Every entry that could be parsed, with its index."""
        return ((i, entry) for i, entry in enumerate(self.entries) if entry is not None)


def read_log(files: Files, log: Verifier) -> Contents:
    """Read a log as far as it goes. Never raises over what it finds: that is what findings are for."""
    contents = Contents(files)
    _read_head(contents, log)
    if contents.head is not None and contents.head.size <= _most_entries(files):
        count = -(-contents.head.size // WIDTH)
        widths = [min(contents.head.size - n * WIDTH, WIDTH) for n in range(count)]
    else:  # the checkpoint says nothing that can be: look at what lies there
        widths = _widths_found(files)
    contents.bundles = [read_bundle(files, number, width) for number, width in enumerate(widths)]
    for bundle in contents.bundles:
        contents.raw += bundle.entries
        if bundle.problem or len(bundle.entries) < bundle.width:
            break
    contents.tree = Tree(map(leaf_hash, contents.raw))
    contents.entries = [_parsed(raw) for raw in contents.raw]
    return contents


def judge_head(data: bytes | None, log: Verifier) -> tuple[Checkpoint | None, Note | None, str]:
    """A checkpoint, and why it does not count (empty when it does)."""
    if data is None:
        return None, None, "There is no checkpoint."
    try:
        note = parse_note(data)
        head = Checkpoint.parse(note.text)
    except ValueError as error:
        return None, None, f"This is not a checkpoint: {_why(error)}."
    if head.origin != log.name:
        return head, note, "This is the checkpoint of another log."
    try:
        found = known(note, [log])
    except ValueError:
        return head, note, "The log's key signed it twice."
    if not found:
        return head, note, "The key that consortium.json names has not signed it."
    if not log.holds(found[0][1].value, note.text.encode("utf-8")):
        return head, note, "The log's signature does not hold over what it says."
    return head, note, ""


def read_bundle(files: Files, number: int, width: int) -> Bundle:
    """One bundle; the full form serves where the partial one is gone (tlog-tiles)."""
    name = tile_path(None, number, width)
    data = files.read(name)
    if data is None and width < WIDTH:
        full = files.read(tile_path(None, number))
        name, data = (tile_path(None, number), full) if full is not None else (name, None)
    return decode_bundle(name, data, width)


def decode_bundle(name: str, data: bytes | None, width: int) -> Bundle:
    """The entries in the bytes of a bundle."""
    if data is None:
        return Bundle(name, width, [], "is missing")
    try:
        entries = unbundle(data)
    except ValueError:
        return Bundle(name, width, [], "is not a bundle of entries")
    exact = PARTIAL.fullmatch(name) is not None or width == WIDTH
    if len(entries) < width or (exact and len(entries) != width):
        return Bundle(name, width, entries[:width], f"has {len(entries)} entries, not {width}")
    return Bundle(name, width, entries[:width])


def _read_head(contents: Contents, log: Verifier) -> None:
    data = contents.files.read(CHECKPOINT)
    contents.head, contents.note, contents.head_problem = judge_head(data, log)


def _most_entries(files: Files) -> int:
    """More than this the files cannot hold, whatever a forged checkpoint says."""
    return (1 + sum(name.startswith("tile/entries/") for name in files.names())) * WIDTH


def _widths_found(files: Files) -> list[int]:
    names = set(files.names())
    widths: list[int] = []
    while tile_path(None, len(widths)) in names:
        widths.append(WIDTH)
    stem = tile_path(None, len(widths)) + ".p/"
    partial = [name.removeprefix(stem) for name in names if name.startswith(stem)]
    found = [int(text) for text in partial if text.isdecimal() and 0 < int(text) < WIDTH]
    return [*widths, max(found)] if found else widths


def _parsed(raw: bytes) -> Entry | None:
    try:
        return parse_entry(raw)
    except (ContractError, ValueError, RecursionError):
        return None


def _why(error: ValueError) -> str:
    return "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
