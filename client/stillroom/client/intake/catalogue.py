"""What a scan of a folder found: series, label files, and why some cannot be used.

The catalogue stays on the site. It holds series UIDs and paths, because the next step must find
the files again; nothing else of it is ever sent. The identifier of an entry is a keyed hash, so
that working copies and reports can be named without saying who the patient is.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from stillroom.common.errors import CODES, DataError

EntryKind = Literal["dicom", "dicom-multiframe", "nifti", "nrrd", "pictures"]
LabelFormat = Literal["mask", "seg", "rtstruct", "markups", "csv"]

SALT_BYTES = 32
ID_HEX = 16
"""64 bits: two of a million entries share an identifier with probability 3e-8."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why something cannot be used.

    Attributes:
        code: A key of ``errors.CODES``, STR-4xx.
        reason: What was found, in one sentence, without any patient-derived text.
        fix: What the reader can do now, in one imperative sentence.
    """

    code: str
    reason: str
    fix: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code} is not a registered error code")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image series. Positions are LPS millimetres, as in DICOM and SimpleITK.

    Attributes:
        id: Keyed hash of the series UID, or of the relative path where there is none.
        kind: How the voxels are stored.
        files: Absolute paths, ordered along the slice normal, pictures by name; one file unless
            ``kind`` is dicom or pictures.
        series_uid: SeriesInstanceUID; None for all but DICOM.
        frame_of_reference_uid: FrameOfReferenceUID; None where absent.
        size: Voxels along (x, y, z); zeros where the header could not be read.
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0).
        direction: Nine cosines, row-major; column ``a`` is the direction of axis ``a``.
        findings: Reasons against using it; empty means accepted.
    """

    id: str
    kind: EntryKind
    files: tuple[Path, ...]
    series_uid: str | None
    frame_of_reference_uid: str | None
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]
    findings: tuple[Finding, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against using it."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class LabelCandidate:
    """A file that looks like a label and belongs to nothing yet."""

    path: Path
    format: LabelFormat


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file and the entry it belongs to.

    Attributes:
        path: Absolute.
        format: How it is stored.
        label: Name of the study's label type.
        entry_id: The entry; None when unmatched.
        finding: Why it cannot be used; None when it can.
    """

    path: Path
    format: LabelFormat
    label: str
    entry_id: str | None
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything one scan of ``root`` found.

    Attributes:
        root: The folder that was scanned, absolute.
        entries: Accepted and quarantined series, in the order of their first file.
        labels: Label files after matching; empty when no rules were given.
        candidates: All files that look like labels.
        skipped: Files that are neither image nor label.
    """

    root: Path
    entries: tuple[Entry, ...]
    labels: tuple[LabelFile, ...] = ()
    candidates: tuple[LabelCandidate, ...] = ()
    skipped: int = 0

    @property
    def accepted(self) -> tuple[Entry, ...]:
        """Entries that may be used."""
        return tuple(entry for entry in self.entries if entry.accepted)

    def entry(self, entry_id: str) -> Entry:
        """The entry of that identifier.

        Raises:
            DataError: There is none (STR-401).
        """
        for entry in self.entries:
            if entry.id == entry_id:
                return entry
        raise DataError(
            "The catalogue holds no entry of that identifier.",
            fix="Run `stillroom-client data scan` again and use an id from its table.",
            code="STR-401",
        )

    def save(self, path: Path) -> None:
        """Write JSON beside ``path`` and rename: a crash leaves the old file or the new one.

        The file names scans, so only its owner may read it (mode 0600).
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(self.to_json(), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``; paths are text that survives any file name."""
        raw = asdict(self)
        return cast("dict[str, Any]", _plain(raw))

    @classmethod
    def load(cls, path: Path) -> "Catalogue":
        """Read what ``save`` wrote.

        Raises:
            DataError: Absent or damaged (STR-401).
        """
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "The catalogue of scans is absent or damaged.",
                fix="Run `stillroom-client data scan FOLDER` to write it anew.",
                code="STR-401",
            ) from error

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Catalogue":
        """The inverse of ``to_json``."""
        return cls(
            root=Path(raw["root"]),
            entries=tuple(_entry(item) for item in raw["entries"]),
            labels=tuple(
                LabelFile(**{**item, "path": Path(item["path"]), "finding": _finding(item)})
                for item in raw["labels"]
            ),
            candidates=tuple(
                LabelCandidate(Path(item["path"]), item["format"]) for item in raw["candidates"]
            ),
            skipped=int(raw["skipped"]),
        )


def entry_id(salt: bytes, name: str) -> str:
    """First 16 hex digits of HMAC-SHA-256 (RFC 2104) of a series UID or a relative path.

    Keyed, because a plain hash of a UID can be found by trying the UIDs of a PACS.
    """
    text = name.encode("utf-8", "surrogateescape")
    return hmac.new(salt, text, hashlib.sha256).hexdigest()[:ID_HEX]


def site_salt(state: Path) -> bytes:
    """The site's key for identifiers, ``<state>/salt``; made on first use, mode 0600.

    Raises:
        DataError: The file exists but is not 32 bytes (STR-400). It is not replaced: new
            identifiers would orphan every working copy.
    """
    path = state / "salt"
    state.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(SALT_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    salt = path.read_bytes()
    if len(salt) != SALT_BYTES:
        raise DataError(
            f"The site's salt has {len(salt)} bytes, expected {SALT_BYTES}.",
            fix="Restore `salt` from a backup of the state folder, or delete the whole folder.",
        )
    return salt


def _entry(raw: Mapping[str, Any]) -> Entry:
    return Entry(
        id=raw["id"],
        kind=raw["kind"],
        files=tuple(Path(name) for name in raw["files"]),
        series_uid=raw["series_uid"],
        frame_of_reference_uid=raw["frame_of_reference_uid"],
        size=cast("tuple[int, int, int]", tuple(raw["size"])),
        spacing_mm=cast("tuple[float, float, float]", tuple(raw["spacing_mm"])),
        origin_mm=cast("tuple[float, float, float]", tuple(raw["origin_mm"])),
        direction=cast(
            "tuple[float, float, float, float, float, float, float, float, float]",
            tuple(raw["direction"]),
        ),
        findings=tuple(Finding(**item) for item in raw["findings"]),
    )


def _finding(raw: Mapping[str, Any]) -> Finding | None:
    return None if raw["finding"] is None else Finding(**raw["finding"])


def _plain(value: Any) -> Any:
    """Paths to text. JSON escapes lone surrogates, so names that are not UTF-8 come back."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
