"""Whether the operator who signed the study is still one: asked before, during and after all work."""

from dataclasses import dataclass, field
from pathlib import Path

from stillroom.client.pinning import pinned
from stillroom.common.errors import StillroomError
from stillroom.common.signed_study import StudySignature, check_signature


@dataclass(slots=True)
class OperatorCheck:
    """One study's signature against whatever ``consortium.json`` says now.

    The file is read again when it was replaced; asking otherwise costs one look at its status.

    Attributes:
        consortium: ``consortium.json``.
        study: The study's digest.
        signature: An operator's, over this digest.
    """

    consortium: Path
    study: str
    signature: StudySignature
    _held: tuple[int, int, int] | None = field(default=None, init=False)

    def require(self) -> None:
        """Refuse a study whose signer has left office.

        Raises:
            TrustError: STR-209, STR-207.
            ConfigError: STR-101, the description is gone.
        """
        seen = self._seen()
        if seen is not None and seen == self._held:
            return
        check_signature(self.study, self.signature, pinned(self.consortium).operator_keys)
        self._held = seen

    def should_stop(self) -> bool:
        """For ``RecipeContext``: asked before every batch."""
        try:
            self.require()
        except StillroomError:
            return True
        return False

    def _seen(self) -> tuple[int, int, int] | None:
        try:
            found = self.consortium.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
