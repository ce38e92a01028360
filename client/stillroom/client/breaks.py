"""What may break off the way of a message, or a wait, without being anybody's failure."""


class RunEnded(Exception):  # noqa: N818  # it says what happened, it is no failure of ours
    """The server says that a message's run is over; the message is dropped."""


class Stopped(Exception):  # noqa: N818  # likewise
    """We were told to stop while waiting."""


class Expired(Exception):  # noqa: N818  # likewise
    """Nobody waits for the answer any more."""


class RunnerLost(Exception):  # noqa: N818  # likewise
    """The runner that was to answer lives no more; another one is to."""
