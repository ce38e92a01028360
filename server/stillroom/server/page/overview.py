"""Everything that an operator looks at, read from files; nothing is changed and no site is asked.

The page is a process of its own: it works while the server is down, and cannot hold a round up.
"""

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stillroom.common.consortium import read_consortium
from stillroom.common.errors import StillroomError
from stillroom.common.pages.reading import Summary
from stillroom.common.study import PreparedStudy
from stillroom.common.tlog.checkpoint import Checkpoint
from stillroom.common.tlog.folder import CHECKPOINT
from stillroom.common.tlog.note import parse_note
from stillroom.server.config import ServerConfig
from stillroom.server.run_status import Standing, standing
from stillroom.server.store.folder import RESULT, STATE, round_name, scores_name
from stillroom.server.store.members import ENROLLED
from stillroom.server.store.registry import Registry
from stillroom.server.store.runs import Run, Runs

KNOCK_S = 0.3
"""How long the server has to take a connection from its own machine."""
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SiteNow:
    """One site, as registry and edge know it. Times are seconds since the epoch.

    Attributes:
        name: Its name.
        status: invited, requested, enrolled or revoked; ``unknown`` without a registry.
        not_after: End of its newest certificate.
        last_seen: Its last request since the server started; None before.
        version: Of stillroom there; empty where it has not said.
        bytes_in: From it, since the server started.
        bytes_out: To it.
    """

    name: str
    status: str = UNKNOWN
    not_after: float | None = None
    last_seen: float | None = None
    version: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class RunNow:
    """One run, with every committed round.

    Attributes:
        run: Its row.
        now: Where it is.
        quorum: Fewest sites of a round.
        summary: As the report reads it: stages with their rounds, sites with their roles.
    """

    run: Run
    now: Standing
    quorum: int
    summary: Summary

    @property
    def is_over(self) -> bool:
        """Nothing more will happen."""
        return self.now.state in {"completed", "failed"}

    def rounds(self) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
        """Stage, how many rounds it will have, and the record of each that is committed."""
        for stage in self.summary["stages"]:
            for record in stage["rounds"]:
                yield stage["name"], stage["of"], record


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole server at one moment.

    Attributes:
        at: When, seconds since the epoch.
        consortium: Its name; empty without a description.
        is_serving: Whether the server takes connections on this machine.
        sites: By name.
        runs: Oldest first.
        refused: What the edge refused since the server started, by reason.
        log_entries: Of the consortium's log; None without one.
        disk_free: Bytes on the disk of ``state``.
        disk_size: Of that disk.
    """

    at: float
    consortium: str
    is_serving: bool
    sites: tuple[SiteNow, ...]
    runs: tuple[RunNow, ...]
    refused: Mapping[str, int]
    log_entries: int | None
    disk_free: int
    disk_size: int


def look(config: ServerConfig) -> Overview:
    """Read it all.

    Raises:
        ConfigError: STR-101, the registry or the table of runs cannot be read.
        ResourceError: STR-503, the table of runs cannot be read.
    """
    edge = _document(config.state / "edge" / "edge.json") or {}
    disk = shutil.disk_usage(next(p for p in (config.state, *config.state.parents) if p.exists()))
    return Overview(
        at=time.time(),
        consortium=_consortium(config.consortium),
        is_serving=_is_serving(config.inner_port),
        sites=_sites(config, edge.get("sites") or {}),
        runs=tuple(_runs(config.runs)),
        refused={**(edge.get("handshakes_refused") or {}), **(edge.get("refused") or {})},
        log_entries=_log_entries(config.log),
        disk_free=disk.free,
        disk_size=disk.total,
    )


def _sites(config: ServerConfig, traffic: Mapping[str, Mapping[str, Any]]) -> tuple[SiteNow, ...]:
    known = {}
    if config.registry is not None:
        with Registry(config.registry, read_only=True) as registry:
            known = {site.name: site for site in registry.sites()}
    found = []
    for name in sorted({*known, *traffic}):
        record, seen = known.get(name), traffic.get(name, {})
        found.append(
            SiteNow(
                name,
                status=UNKNOWN if record is None else record.status,
                not_after=None if record is None else record.not_after,
                last_seen=seen.get("last_seen"),
                version=str(seen.get("version") or ""),
                bytes_in=int(seen.get("bytes_in", 0)),
                bytes_out=int(seen.get("bytes_out", 0)),
            )
        )
    return tuple(found)


def enrolled(sites: Sequence[SiteNow]) -> list[SiteNow]:
    """Those that may speak to the server."""
    return [site for site in sites if site.status in {ENROLLED, UNKNOWN}]


def _runs(path: Path) -> Iterator[RunNow]:
    if not path.exists():
        return
    with Runs(path, read_only=True) as table:
        found = table.all()
    for run in found:
        yield _run(run)


def _run(run: Run) -> RunNow:
    prepared = _study(run.study)
    result, state = _document(run.folder / RESULT), _document(run.folder / STATE)
    stages = []
    for stage in () if prepared is None else prepared.study.stage:
        closed = int(((state or {}).get("closed") or {}).get(stage.name, 0))
        records = list(_records(run.folder, stage.name, closed))
        stages.append(
            {"name": stage.name, "recipe": stage.recipe, "of": stage.rounds, "rounds": records}
        )
    held_out = set() if prepared is None else set(prepared.study.study.held_out)
    summary = {
        **(result or {}),
        "stages": stages,
        "sites": [
            {"name": site, "role": "held_out" if site in held_out else "train"}
            for site in sorted((state or {}).get("inventories") or {})
        ],
    }
    quorum = 1 if prepared is None else prepared.study.study.quorum.min_sites
    return RunNow(run, standing(run), quorum, summary)


def _records(folder: Path, stage: str, closed: int) -> Iterator[dict[str, Any]]:
    """Committed rounds; one whose file is damaged is left out here and stops the run elsewhere."""
    for number in range(1, closed + 1):
        record = _document(folder / round_name(stage, number))
        if record is None:
            continue
        scores = _document(folder / scores_name(stage, number))
        yield record if scores is None else {**record, "evaluation": scores}


def _document(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none that can be read."""
    try:
        found = path.stat()
        return _parsed(path, found.st_ino, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _parsed(path: Path, *_version: int) -> dict[str, Any]:
    """Of a file as it was then: records of rounds never change, and a page is read again and again."""
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _study(folder: Path) -> PreparedStudy | None:
    try:
        found = (folder / "study.json").stat()
        return _parsed_study(folder / "study.json", found.st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=16)
def _parsed_study(path: Path, _version: int) -> PreparedStudy:
    # Its weights are not proven here, as ``PreparedStudy.load`` would: nothing is decided on this.
    return PreparedStudy.model_validate_json(path.read_bytes())


def _consortium(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return read_consortium(path.read_bytes()).name
    except (OSError, StillroomError):
        return ""


def _log_entries(folder: Path) -> int | None:
    try:
        return Checkpoint.parse(parse_note((folder / CHECKPOINT).read_bytes()).text).size
    except (OSError, ValueError):
        return None


def _is_serving(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=KNOCK_S),
    ):
        return True
    return False
