"""Writing into the consortium's log: every process of the server that does, does it here.

Entries are stamped with the time while nobody else can append, so times go forward. What has to be
written exactly once although its writer may be killed (a step of a study) is compared with what the
log has had since: a batch is in the log as a whole or not at all.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillroom.common.errors import ConfigError
from stillroom.common.log_entries import UNSTAMPED, Entry, Operator, parse_entry, timestamp
from stillroom.common.log_identity import log_verifier
from stillroom.common.pki.files import load_signing_key
from stillroom.common.signing import public_key_hex
from stillroom.common.tlog.checkpoint import Checkpoint
from stillroom.common.tlog.folder import LogFolder
from stillroom.server.config import ServerConfig
from stillroom.server.cosigned import Cosigned
from stillroom.server.enrolment import load_consortium
from stillroom.server.log import Log
from stillroom.server.store.registry_file import Note

KEYS = ("log", "log-guard", "log-key", "log-origin", "log-cosigned")
"""Settings of a run that say where its log is."""


@dataclass(frozen=True, slots=True)
class Logbook:
    """The log, as those see it who have something to say.

    Attributes:
        log: Where it is and who signs it.
        cosigned: What sites have cosigned of it.
        clock: Seconds since the epoch.
    """

    log: Log
    cosigned: Cosigned
    clock: Callable[[], float] = field(default=time.time)

    def note(self, *entries: Entry) -> range:
        """Append ``entries``; durable and published when this returns. Returns their indices.

        Raises:
            TrustError: STR-221, the log is not what was promised.
            ResourceError: STR-503, a disk failed.
        """
        return self.log.append_made(lambda _head: self._stamped(entries))

    def note_once(self, entries: Sequence[Entry], since: int) -> int:
        """Append ``entries``, unless the log has had them since it had ``since`` entries.

        Returns:
            The size of a log that holds them; what it raises: as ``note``.
        """

        def make(head: Checkpoint) -> list[bytes]:
            if not entries:
                return []
            first = _content(entries[0].to_bytes())
            if any(_content(raw) == first for _, raw in self._raw(head, since)):
                return []
            return self._stamped(entries)

        return self.log.append_made(make).stop

    def entries(self, since: int = 0) -> Iterator[tuple[int, Entry]]:
        """Every entry from ``since`` on, with its index; raises ValueError for a damaged log."""
        return ((index, parse_entry(raw)) for index, raw in self._raw(self.log.head(), since))

    def size(self) -> int:
        """How many entries the log has."""
        return self.log.head().size

    def _stamped(self, entries: Sequence[Entry]) -> list[bytes]:
        now = timestamp(self.clock())
        return [entry.model_copy(update={"time": now}).to_bytes() for entry in entries]

    def _raw(self, head: Checkpoint, since: int) -> Iterator[tuple[int, bytes]]:
        return LogFolder(self.log.folder, head.size).entries(since)


def open_logbook(config: ServerConfig) -> Logbook | None:
    """The log of server.toml; None where the consortium has none.

    Raises:
        ConfigError: STR-102, the consortium's description promises a log and its key is not here,
            or another one is; STR-101, the key cannot be read.
        TrustError: STR-202, others can read the key.
    """
    if config.consortium is None:
        return None
    consortium = load_consortium(config)
    if consortium.log_key_hex is None:
        return None
    key = load_signing_key(config.log_key)
    if public_key_hex(key) != consortium.log_key_hex:
        raise ConfigError(
            "The key named `log_key` is not the one that the consortium's description names.",
            fix="Restore log.key; sites trust no log that another key signs.",
            code="STR-102",
        )
    log = Log(config.log, config.guard, log_verifier(consortium).name, key)
    return Logbook(log, Cosigned(config.cosigned))


def noting(config: ServerConfig) -> Note | None:
    """What writes an entry into the log; None where there is no log. Raises as ``open_logbook``."""
    book = open_logbook(config)
    return None if book is None else book.note


def note_act(config: ServerConfig, act: str, subject: str = "") -> None:
    """Write down what an operator is about to do. Raises as ``open_logbook`` and ``note``."""
    note = noting(config)
    if note is not None:
        note(Operator(time=UNSTAMPED, act=act, subject=subject[:120]))


def log_settings(config: ServerConfig) -> dict[str, bool | float | int | str]:
    """What ``from_settings`` needs, for a process of its own; empty where there is no log."""
    book = open_logbook(config)
    if book is None:
        return dict.fromkeys(KEYS, "")
    return {
        "log": str(config.log.resolve()),
        "log-guard": str(config.guard.resolve()),
        "log-key": str(config.log_key.resolve()),
        "log-origin": book.log.origin,
        "log-cosigned": str(config.cosigned.resolve()),
    }


def from_settings(settings: Mapping[str, str]) -> Logbook | None:
    """The log that a run's settings name; None where they name none."""
    if not settings.get("log"):
        return None
    log = Log(
        Path(settings["log"]),
        Path(settings["log-guard"]),
        settings["log-origin"],
        load_signing_key(Path(settings["log-key"])),
    )
    return Logbook(log, Cosigned(Path(settings["log-cosigned"])))


def _content(raw: bytes) -> Any:
    """An entry without its time."""
    content = json.loads(raw)
    content.pop("time", None)
    return content
