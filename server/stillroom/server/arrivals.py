"""How the server reads what a site sends, before its own rules can look at it.

Flower's client of the SuperLink decodes a whole message at once and believes an array that lists one
chunk a million times; that message would take all memory of the study's process and end the study
for everybody. The class that Flower looks up for arrays is replaced by one that counts first.
"""

import json
from functools import partial

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_body
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry, pull_objects
from flwr.superlink.grid import http_grid
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from typing_extensions import override

from stillroom.common.parcel import CHUNK, SMALL
from stillroom.common.study import StudySection

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


class BoundedArray(Array):
    """An array that is as long as it says it is, and no longer than any update of the study."""

    limit = 0
    """Bytes; set by ``bound_arrays``."""

    @classmethod
    @override
    def inflate(
        cls, object_content: bytes, children: dict[str, InflatableObject] | None = None
    ) -> Array:
        """As ``Array.inflate``.

        Raises:
            ValueError: It is not one array of bytes, or lists other chunks than those bytes need.
        """
        body = json.loads(bytes(get_object_body(object_content, Array)))
        (size,), chunks = body["shape"], body["arraychunk_ids"]
        if body["dtype"] != "uint8" or not 0 <= size <= cls.limit:
            raise ValueError("the array is larger than any update")
        if len(chunks) != -(-size // CHUNK):
            raise ValueError("the array's length and its chunks disagree")
        array = Array.inflate(object_content, children)
        if len(array.data) != size:
            raise ValueError("the array is not as long as it says")
        return array


def bound_arrays(study: StudySection) -> None:
    """Have Flower use ``BoundedArray`` in this process from now on."""
    BoundedArray.limit = int(study.max_update_mib * 2**20) + SMALL
    inflatable_class_registry[Array.__qualname__] = BoundedArray


def look_sooner() -> None:
    """Have Flower's Grid in this process look again soon for an object that is still on its way.

    A reply is announced before its objects are uploaded, and Flower's first pause for an object
    that is not there yet is one second: at every answer of every round.
    """
    quick = partial(pull_objects, initial_backoff=FIRST_LOOK_S, backoff_cap=1.0)
    setattr(http_grid, "pull_objects", quick)  # noqa: B010  # a name the module does not export
