"""Reading what an auditor was given: the one place of the audit that opens files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillroom.common.consortium import Consortium, read_consortium
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.log_identity import log_verifier
from stillroom.common.tlog.note import ED25519, Verifier
from stillroom.server.audit.case import Case, Seen, Told
from stillroom.server.audit.history import tell
from stillroom.server.audit.ledgers import Ledger, read_ledger
from stillroom.server.audit.published import Files, FolderFiles, read_log


@dataclass(frozen=True, slots=True)
class Given:
    """What the auditor names on the command line.

    Attributes:
        log: Folder.
        consortium: File.
        release: Folder.
        ledgers: Files, each as ``FILE`` or ``SITE=FILE``.
        seen: Files.
        keys: ``SITE=HEX`` or a verifier key (``name+id+base64``).
        quorum: Cosignatures the auditor demands.
        run: The one run to look at.
    """

    log: Path
    consortium: Path
    release: Path | None = None
    ledgers: Sequence[str] = ()
    seen: Sequence[Path] = ()
    keys: Sequence[str] = ()
    quorum: int = 0
    run: str | None = None


@dataclass(slots=True)
class MemoryFiles:
    """Files in memory, for tests and for what came over the wire."""

    data: Mapping[str, bytes] = field(default_factory=dict)

    def names(self) -> list[str]:
        """As ``Files.names``."""
        return sorted(self.data)

    def read(self, name: str) -> bytes | None:
        """As ``Files.read``."""
        return self.data.get(name)

    def digest(self, name: str) -> str | None:
        """As ``Files.digest``."""
        data = self.data.get(name)
        return None if data is None else hashlib.sha256(data).hexdigest()


def open_case(given: Given) -> Case:
    """Read everything that was named.

    Raises:
        ConfigError: STR-101, a file or folder is not there; STR-100, an option is not understood.
        TrustError: The consortium's description does not hold, or names no key for a log.
    """
    if not given.log.is_dir():
        raise _missing(given.log)
    if given.release is not None and not given.release.is_dir():
        raise _missing(given.release)
    case = case_of(read_consortium(_bytes(given.consortium)), FolderFiles(given.log))
    names = _names(given.seen)
    case.seen = [Seen(names[path], _bytes(path)) for path in given.seen]
    owned = [_owned(text) for text in given.ledgers]
    names = _names([path for _, path in owned])
    case.ledgers = [read_ledger(_bytes(path), names[path], site) for site, path in owned]
    case.release = None if given.release is None else FolderFiles(given.release)
    case.keys = dict(site_key(text) for text in given.keys)
    case.quorum, case.run = given.quorum, given.run
    if given.run is not None and not case.runs():
        raise ConfigError(
            f"The log has no run {given.run}.",
            fix="See `stillroom-audit show LOG --kind study` for the runs it has.",
        )
    return case


def case_of(consortium: Consortium, files: Files) -> Case:
    """A case with nothing but the log.

    Raises:
        TrustError: STR-222, the consortium's description names no key for a log.
    """
    log = log_verifier(consortium)
    contents = read_log(files, log)
    history = tell(contents.numbered())
    return Case(consortium=consortium, log=log, contents=contents, history=history)


def open_log(folder: Path) -> Told:
    """A log alone, for looking at what it says: whether it holds is ``verify``'s to say.

    Raises:
        ConfigError: STR-101, there is no such folder.
        TrustError: STR-222, nothing in it can be read.
    """
    if not folder.is_dir():
        raise _missing(folder)
    contents = read_log(FolderFiles(folder), Verifier("nobody", ED25519, bytes(32)))
    if not contents.raw:
        raise TrustError(
            "Nothing in this folder can be read as a log.",
            fix="Name the folder that holds `checkpoint` and `tile/`.",
            code="STR-222",
        )
    return Told(contents=contents, history=tell(contents.numbered()))


def site_key(text: str) -> tuple[str, str]:
    """A site's name and signing key (hex) from ``SITE=HEX`` or a verifier key.

    Raises:
        ConfigError: STR-100, it is neither.
    """
    try:
        if "=" in text and "+" not in text.partition("=")[0]:
            site, _, key = text.partition("=")
            raw = bytes.fromhex(key)
            if len(raw) != 32:
                raise ValueError("not 32 bytes")
            return site, raw.hex()
        verifier = Verifier.decode(text)
    except ValueError as error:
        raise ConfigError(
            "A witness is neither SITE=HEX nor a verifier key.",
            fix="Give the site's name and the 64 hex digits of its signing.pub: north=9f...",
        ) from error
    return verifier.name, verifier.public_key.hex()


def ledger_of(text: str) -> Ledger:
    """A ledger from ``FILE`` or ``SITE=FILE``; raises as ``open_case`` does."""
    site, path = _owned(text)
    return read_ledger(_bytes(path), _names([path])[path], site)


def _owned(text: str) -> tuple[str | None, Path]:
    site, mark, name = text.rpartition("=")
    path = Path(name)
    if mark and not path.is_file() and Path(text).is_file():
        site, path = "", Path(text)
    return site or None, path


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _missing(path) from error


def _missing(path: Path) -> ConfigError:
    return ConfigError(f"{path} cannot be read.", fix="Check the path.", code="STR-101")


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file is called in findings: its name, and as many folders as tell it from the others."""
    whole = {path: path.resolve().parts for path in paths}
    depth = 2
    while depth < max(map(len, whole.values()), default=0) and len(
        {parts[-depth:] for parts in whole.values()}
    ) < len(set(whole.values())):
        depth += 1
    return {path: "/".join(parts[-depth:]) for path, parts in whole.items()}
