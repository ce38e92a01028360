"""``stillroom-rehearse`` whose sites answer in the reverse order: the last one asked is the first heard."""

from collections.abc import Iterable

from flwr.app import Message
from typing_extensions import override

from stillroom.deploy import local_grid
from stillroom.deploy.cli import main


class Backwards(local_grid.LocalGrid):
    """The grid of one process, read from its end."""

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return list(super().pull_messages(message_ids))[::-1]


if __name__ == "__main__":
    local_grid.LocalGrid = Backwards  # type: ignore[misc]  # whoever makes a grid makes this one
    main()
