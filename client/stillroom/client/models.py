"""Global models on their way in: brought here whole, proven, and only then shown to the runner."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stillroom.client.exchange import ExchangeFolder
from stillroom.common.canonical import canonical_bytes, file_digest
from stillroom.common.encoding import apply_delta
from stillroom.common.errors import ContractError, StillroomError
from stillroom.common.manifest import Manifest
from stillroom.common.messages import Delta, ModelRef
from stillroom.common.study import PreparedStudy
from stillroom.common.tensorfile import header, write_durably

log = logging.getLogger(__name__)

Fetch = Callable[[str, int, Path], int]
"""Name, bytes and where to: brings a file whose bytes have that name; returns what came over the
line. Goes on where an interrupted one stopped."""

KEPT = 2
"""Models of a stage that stay here: the newest, and the one it may come as a change of."""


@dataclass(slots=True)
class Models:
    """The models a site holds.

    Attributes:
        exchange: Where the runner finds them.
        prepared: The study; its own initial weights need no fetching.
        study: Its folder.
        fetch: Brings a file from the consortium.
        notes: A file that remembers over a restart which models belong to which stage.
        proven: Of the models that are here: those whose digest this process has seen, and what the
            file looked like then.
    """

    exchange: ExchangeFolder
    prepared: PreparedStudy
    study: Path
    fetch: Fetch
    notes: Path
    proven: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def bring(self, stage: str, ref: ModelRef) -> Path:
        """The file of a stage's model, from the nearest place that has it.

        Args:
            stage: Whose model it is.
            ref: As ``check_task`` has found it to be.

        Raises:
            ContractError: STR-301, its tensors are not the manifest's; nothing of it stays here.
        """
        path = self.exchange.model(ref.sha256)
        if self._holds(ref.sha256):
            return path
        wanted = self.prepared.stages[stage]
        if ref.sha256 == wanted.initial_sha256 and self._from_study(ref, wanted.manifest):
            return path
        if ref.delta is not None and self._holds(ref.delta.base):
            encoding = self.prepared.study.stage_named(stage).exchange.encoding
            if self._from_delta(ref, ref.delta, encoding, wanted.manifest):
                return path
        return self._whole(ref, wanted.manifest)

    def forget_others(self, models: Mapping[str, ModelRef]) -> None:
        """Remove what neither the present task nor the next one of its stages can need."""
        try:
            known = json.loads(self.notes.read_bytes())
        except (OSError, ValueError):
            known = {}
        for stage, ref in models.items():
            earlier = [name for name in known.get(stage, []) if name != ref.sha256]
            known[stage] = [ref.sha256, *earlier][:KEPT]
        self.notes.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self.notes, canonical_bytes(known))
        kept = {name for names in known.values() for name in names}
        self.exchange.keep_models(kept)
        self.proven = {name: look for name, look in self.proven.items() if name in kept}

    def _holds(self, sha256: str) -> bool:
        """Whether a model is here; its digest is looked at once in the life of this process."""
        path = self.exchange.model(sha256)
        try:
            found = _look(path)
            if self.proven.get(sha256) == found:
                return True
            if file_digest(path) == sha256:
                self.proven[sha256] = found
                return True
        except OSError:
            return False
        log.warning("models.damaged")
        path.unlink(missing_ok=True)
        return False

    def _from_study(self, ref: ModelRef, manifest: Manifest) -> bool:
        """A copy of the study's own file: a link would let the runner write into the study."""
        incoming = self._incoming(ref)
        try:
            shutil.copyfile(self.study / "weights" / f"{ref.sha256}.safetensors", incoming)
        except OSError:
            return False
        if file_digest(incoming) != ref.sha256:
            incoming.unlink()
            return False
        self._show(ref, incoming, manifest)
        return True

    def _from_delta(self, ref: ModelRef, delta: Delta, encoding: str, manifest: Manifest) -> bool:
        """Base and change, added up; False where that does not give the very bytes."""
        change, incoming = self.exchange.models / f"{delta.sha256}.delta", self._incoming(ref)
        try:
            self.fetch(delta.sha256, delta.nbytes, change)
            with change.open("rb") as stream:
                digest = apply_delta(
                    self.exchange.model(delta.base), stream, encoding, manifest, incoming
                )
            if digest != ref.sha256:
                raise ContractError("Another sum.", fix="Fetch it whole.", code="STR-311")
        except StillroomError as error:
            # Somebody's mistake, but not one that costs a round: the whole file settles it.
            log.warning("models.delta_of_no_use", extra={"code": error.code})
            incoming.unlink(missing_ok=True)
            return False
        finally:
            # An interrupted fetch keeps its own part; what is whole has served.
            change.unlink(missing_ok=True)
        self._show(ref, incoming, manifest)
        return True

    def _whole(self, ref: ModelRef, manifest: Manifest) -> Path:
        incoming = self._incoming(ref)
        self.fetch(ref.sha256, ref.nbytes, incoming)
        self._show(ref, incoming, manifest)
        return self.exchange.model(ref.sha256)

    def _incoming(self, ref: ModelRef) -> Path:
        """Not yet under the name by which the runner looks for it."""
        return self.exchange.models / f"{ref.sha256}.incoming"

    def _show(self, ref: ModelRef, incoming: Path, manifest: Manifest) -> None:
        """Give a proven file its name, unless its tensors are other ones.

        Raises:
            ContractError: STR-301.
        """
        head = header(manifest.layout)
        with incoming.open("rb") as stream:
            same = stream.read(len(head)) == head
        if not same or incoming.stat().st_size != ref.nbytes:
            incoming.unlink()
            raise ContractError(
                "The task's tensors are not the ones of its stage.",
                fix="Ask the operator which study is running.",
                code="STR-301",
            )
        path = self.exchange.model(ref.sha256)
        os.replace(incoming, path)
        with contextlib.suppress(OSError):
            self.proven[ref.sha256] = _look(path)


def _look(path: Path) -> tuple[int, int, int]:
    found = path.stat(follow_symlinks=False)
    return found.st_ino, found.st_size, found.st_mtime_ns
