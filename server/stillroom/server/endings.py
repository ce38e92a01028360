"""How a study stops: for good with an error, or for now."""

import errno
from typing import Any

from stillroom.common.errors import ResourceError, StillroomError


class Paused(Exception):  # noqa: N818  # nothing went wrong
    """Raised when a study stops where it is, to go on later.

    Args:
        reason: In words, for the operator.
        give_up: Starting it again would change nothing: somebody has to do something first.
    """

    def __init__(self, reason: str, *, give_up: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.give_up = reason, give_up


class Ended(Exception):  # noqa: N818  # nothing went wrong
    """Raised when the operator wants a study to end for good."""


def stopped() -> StillroomError:
    """What is recorded when somebody ended the run."""
    return ResourceError(
        "The run was ended by its operator.",
        fix="Start the study in a new folder if it should run after all.",
        code="STR-508",
    )


def broken() -> StillroomError:
    """What is recorded for an exception nobody expected: nothing of its text."""
    return ResourceError(
        "The study ended because of a defect in the server's program.",
        fix="Read the log of the SuperExec and report it.",
        code="STR-505",
    )


def disk_full() -> StillroomError:
    """What is said when there is no room for the next round; nothing that was committed is lost."""
    return ResourceError(
        "The disk of the run's folder is full.",
        fix="Make room, then `stillroom-server run resume`.",
        code="STR-503",
    )


def is_full_disk(error: Exception) -> bool:
    """Whether an error says that a disk is full or failed, be it the run's, the depot's or the log's.

    It says nothing about the study: once there is room, the study can go on.
    """
    if isinstance(error, StillroomError):
        return error.code == "STR-503"
    # A part of the log that the disk would not give is a ValueError, made from what the disk said.
    first = error.__cause__ if isinstance(error, ValueError) else error
    return isinstance(first, OSError) and first.errno in {errno.ENOSPC, errno.EDQUOT}


def ending(error: StillroomError) -> dict[str, Any]:
    """An error as it is recorded and shown again by another process."""
    return {
        "code": error.code,
        "what": error.what,
        "fix": error.fix,
        "exit_status": error.exit_status,
    }
