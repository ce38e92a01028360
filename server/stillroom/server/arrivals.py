"""How the server reads what a site sends, before its own rules can look at it.

Flower's client of the SuperLink decodes a whole message at once and believes an array that lists one
chunk a million times; that message would take all memory of the study's process and end the study
for everybody. The class that Flower looks up for arrays is replaced by one that refuses them.
"""

from functools import partial

from flwr.app import Array
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry, pull_objects
from flwr.superlink.grid import http_grid
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from typing_extensions import override

UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
    OverflowError,
    DecodeError,
)
"""What Flower's decoder raises for bytes that are no message."""

FIRST_LOOK_S = 0.05
"""First pause for an object that has been announced; doubles up to one second."""


class NoArray(Array):
    """Weights travel beside messages: an array inside one is none of ours, however long it says it is."""

    @classmethod
    @override
    def inflate(
        cls, object_content: bytes, children: dict[str, InflatableObject] | None = None
    ) -> Array:
        """Never anything.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a message holds an array")


def refuse_arrays() -> None:
    """Have Flower use ``NoArray`` in this process from now on."""
    inflatable_class_registry[Array.__qualname__] = NoArray


def patient(grid: Grid) -> None:
    """Have calls of the SuperLink that fail come back to us instead of being repeated unseen.

    Flower's own repetition doubles its pauses without end and cannot be told to stop; whoever asks
    (``exchange.GridExchange``) repeats sooner, and gives up when the operator wants that.
    """
    if isinstance(grid, http_grid.HttpGrid):
        grid._retry_invoker.max_tries = 1  # noqa: SLF001  # as Flower's own exit handler does


def look_sooner() -> None:
    """Have Flower's Grid in this process look again soon for an object that is still on its way.

    A reply is announced before its objects are uploaded, and Flower's first pause for an object
    that is not there yet is one second: at every answer of every round.
    """
    quick = partial(pull_objects, initial_backoff=FIRST_LOOK_S, backoff_cap=1.0)
    setattr(http_grid, "pull_objects", quick)  # noqa: B010  # a name the module does not export
