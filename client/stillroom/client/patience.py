"""How long to wait before a broken line is tried again."""

import random
import threading

from stillroom.client.breaks import Stopped

RETRY_FIRST_S, RETRY_MOST_S = 0.2, 2.0


class Patience:
    """The pauses between attempts: longer each time, short again after progress."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._pause = stop, RETRY_FIRST_S

    def progress(self) -> None:
        """Something got through."""
        self._pause = RETRY_FIRST_S

    def wait(self) -> None:
        """Wait before the next attempt.

        Raises:
            Stopped: We were told to stop.
        """
        # Sites that lose the server together should not come back together.
        if self._stop.wait(self._pause * random.uniform(0.8, 1.2)):  # noqa: S311  # no secret
            raise Stopped
        self._pause = min(self._pause * 2, RETRY_MOST_S)
