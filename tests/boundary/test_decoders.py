"""Every decoder that sees a peer's bytes ends in a verdict, whatever the bytes are.

``STILLROOM_FUZZ_EXAMPLES`` says how many examples each; 50 when unset.
"""

import json
import os
import tracemalloc
from hashlib import sha256

import attempts
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillroom.client.gate import Request, admit_request, decide
from stillroom.common.errors import StillroomError
from stillroom.common.messages import pack_reply, pack_task, read_reply, read_task
from stillroom.common.parcel import frame, open_parcel, split
from stillroom.common.tensorfile import serialise, views
from stillroom.common.update import check_reply, check_task

pytestmark = pytest.mark.usefixtures("inside_a_task")

FUZZ = settings(
    max_examples=int(os.environ.get("STILLROOM_FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GOOD_FILE = serialise(attempts.GOOD)
TEXT = st.text(max_size=12)
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats()
EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4)
JSONISH = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def edited(data: bytes, edits: list[tuple[int, int]], cut: int) -> bytes:
    """``data`` with some bytes changed and its end cut off."""
    changed = bytearray(data[: len(data) - cut % 64])
    for at, value in edits:
        changed[at % len(changed)] = value
    return bytes(changed)


@FUZZ
@given(st.binary(max_size=200) | st.builds(edited, st.just(GOOD_FILE), EDITS, st.integers(0, 63)))
def test_tensor_files(data: bytes) -> None:
    """Tensors whose file is canonical, or ValueError."""
    try:
        tensors = views(data)
    except ValueError:
        return
    assert serialise(tensors) == data


RECORDS = st.dictionaries(
    st.sampled_from(["task", "weights", "metrics", "samples", "teacher.teach-a", "x"]) | TEXT,
    st.builds(MetricRecord, st.dictionaries(TEXT, NUMBER | st.lists(st.floats(), max_size=3)))
    | st.builds(
        ConfigRecord,
        st.dictionaries(
            st.sampled_from(["study", "stage", "round"]) | TEXT,
            TEXT | NUMBER | st.booleans() | st.binary(max_size=9) | st.lists(TEXT, max_size=2),
        ),
    )
    | st.builds(
        lambda data, name, kind: ArrayRecord({name: Array("uint8", (len(data),), kind, data)}),
        st.binary(max_size=80) | st.just(GOOD_FILE),
        st.just("safetensors") | TEXT,
        st.just("safetensors") | st.just("numpy.ndarray") | TEXT,
    ),
    max_size=4,
).map(RecordDict)


@FUZZ
@given(RECORDS)
def test_records(content: RecordDict) -> None:
    """A task or a reply inside the study, or a code; the same at the gate and at the server."""
    message = Message(content, 7, "train.round", ttl=60, group_id="2")
    with_code(lambda: check_task("round", read_task(message), attempts.PREPARED))
    with_code(lambda: check_reply("round", "student", read_reply(message), attempts.PREPARED))
    objects = attempts.deflated(message)
    with_code(lambda: admit_request(message, objects.__getitem__, attempts.PREPARED, 1 << 20))


def with_code(call: object) -> bool:
    """True when it went well; False when it ended in one of our codes."""
    try:
        call()  # type: ignore[operator]
    except StillroomError:
        return False
    return True


@FUZZ
@given(RECORDS)
def test_replies_agree(content: RecordDict) -> None:
    """What the gate lets out, the server admits; what the server refuses, the gate refused."""
    request = Message(RecordDict(), 7, "train.round", ttl=60, group_id="2")
    request.metadata.__dict__["_message_id"] = "a" * 64
    reply = Message(content, reply_to=request)
    objects = attempts.deflated(reply)
    asked = Request(request, "round", "student", 2)
    out = with_code(
        lambda: decide(asked, list(objects)[-1], objects.__getitem__, attempts.PREPARED)
    )
    if out:
        check_reply("round", "student", read_reply(reply), attempts.PREPARED)


@FUZZ
@given(
    which=st.integers(0, 9), edits=EDITS, cut=st.integers(0, 63), value=JSONISH, whole=st.booleans()
)
def test_objects(
    which: int, edits: list[tuple[int, int]], cut: int, value: object, whole: bool
) -> None:
    """A parcel that is whole and canonical, or a code; never more memory than the limit."""
    message = Message(pack_task(attempts.ask()), 7, "train.round", ttl=60)
    kinds = ["Message", "RecordDict", "ConfigRecord", "ArrayRecord", "Array", "ArrayChunk"]
    kind = kinds[which % len(kinds)]

    def change(content: bytes) -> bytes:
        if whole:
            return frame(kind, split(content)[1], json.dumps(value).encode())
        return edited(content, edits, cut)

    objects = attempts.forged(
        attempts.deflated(message), lambda found, data: change(data) if found == kind else data
    )
    tracemalloc.start()
    opened = with_code(lambda: open_parcel(list(objects)[-1], objects.__getitem__, limit=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    if opened:
        parcel = open_parcel(list(objects)[-1], objects.__getitem__, limit=1 << 20)
        assert all(sha256(data).hexdigest() == name for name, data in parcel.objects.items())


@FUZZ
@given(st.binary(max_size=120))
def test_frames(data: bytes) -> None:
    """A frame that is written back the same, or ValueError."""
    try:
        kind, children, body = split(data)
    except ValueError:
        return
    assert frame(kind, children, bytes(body)) == data


def test_the_good_one_passes() -> None:
    """The laws above are not empty."""
    reply = Message(
        pack_reply(attempts.Reply(attempts.GOOD, attempts.SAMPLES, attempts.METRICS)), 7, "train"
    )
    check_reply("round", "student", read_reply(reply), attempts.PREPARED)
    task = Message(pack_task(attempts.ask()), 7, "train.round")
    check_task("round", read_task(task), attempts.PREPARED)
