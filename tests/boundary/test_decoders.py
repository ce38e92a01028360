"""Every decoder that sees a peer's messages or weights ends in a verdict, whatever the bytes are."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import attempts
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from fuzzing import EDITS, FUZZ, JSONISH, NUMBER, TEXT, damaged, edited, verdict
from hypothesis import given
from hypothesis import strategies as st

from stillroom.client.exchange import ExchangeFolder
from stillroom.client.gate import Request, admit_request, decide
from stillroom.client.outbox import Outbox
from stillroom.common.encoding import apply_delta
from stillroom.common.messages import UpdateRef, pack_task, read_reply, read_task
from stillroom.common.parcel import frame, open_parcel, split
from stillroom.common.study import PreparedStudy
from stillroom.common.tensorfile import serialise, views
from stillroom.common.update import check_reply, check_task, check_update_file

pytestmark = pytest.mark.usefixtures("inside_a_task")

ENCODINGS = ("fp32", "bf16-delta", "int8-delta")
STUDIES = {encoding: attempts.study(encoding) for encoding in ENCODINGS}
MANIFEST = attempts.PREPARED.stages["student"].manifest
UPDATE = UpdateRef(
    "fp32", attempts.MODEL.sha256, attempts.digest(attempts.GOOD_FILE), len(attempts.GOOD_FILE)
)


def held(call: Callable[[], object]) -> bool:
    """True when it went well; False when it ended in one of our codes."""
    return verdict(lambda: (call(), True)[1]) is True


def site(folder: Path, prepared: PreparedStudy = attempts.PREPARED) -> Outbox:
    """A site that holds the model and has an update to send."""
    exchange = ExchangeFolder(folder / "exchange").prepare()
    for path, data in (
        (exchange.model(attempts.MODEL.sha256), attempts.BASE_FILE),
        (exchange.update(UPDATE.sha256), attempts.GOOD_FILE),
    ):
        if not path.exists():
            path.write_bytes(data)
    return Outbox.below(folder / "courier", exchange, prepared)


def encoded(encoding: str) -> bytes:
    """The good update as it leaves."""
    with TemporaryDirectory() as folder:
        sealed = site(Path(folder), STUDIES[encoding]).seal("student", 2, UPDATE)
        return sealed.path.read_bytes()


GOOD_BLOBS = {encoding: encoded(encoding) for encoding in ENCODINGS}


@FUZZ
@given(st.binary(max_size=200) | damaged(attempts.GOOD_FILE))
def test_tensor_files(data: bytes) -> None:
    """Tensors whose file is canonical, or ValueError."""
    try:
        tensors = views(data)
    except ValueError:
        return
    assert serialise(tensors) == data


@FUZZ
@given(st.data())
def test_update_files(data: st.DataObject) -> None:
    """An update in any encoding is used as a whole or not at all, in bounded memory."""
    encoding = data.draw(st.sampled_from(ENCODINGS))
    good = GOOD_BLOBS[encoding]
    blob = data.draw(
        damaged(good)
        | st.binary(max_size=200).map(lambda tail: good[:9] + tail)
        | st.binary(max_size=200)
        | st.just(good)
    )
    ref = UpdateRef(encoding, attempts.MODEL.sha256, attempts.digest(blob), len(blob))
    held_up = held(lambda: check_update_file(io.BytesIO(blob), ref, MANIFEST, STUDIES[encoding]))
    if blob == good:
        assert held_up
    other = replace(ref, sha256=UPDATE.sha256[::-1])
    assert not held(lambda: check_update_file(io.BytesIO(blob), other, MANIFEST, STUDIES[encoding]))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One site for every example of a law."""
    folder = tmp_path_factory.mktemp("site")
    site(folder)
    return folder


@FUZZ
@given(st.data())
def test_changes_of_a_model(bench: Path, data: st.DataObject) -> None:
    """What the server sends as a change makes a whole model, or leaves nothing."""
    encoding = data.draw(st.sampled_from(ENCODINGS[1:]))
    blob = data.draw(damaged(GOOD_BLOBS[encoding]))
    base, into = site(bench).exchange.model(attempts.MODEL.sha256), bench / "new"
    made = held(lambda: apply_delta(base, io.BytesIO(blob), encoding, MANIFEST, into))
    assert into.exists() == made
    if made:
        assert into.stat().st_size == len(attempts.BASE_FILE)
        into.unlink()


RECORDS = st.dictionaries(
    st.sampled_from(["task", "model.student", "update", "metrics", "samples", "x"]) | TEXT,
    st.builds(
        MetricRecord,
        st.dictionaries(TEXT, NUMBER | st.lists(st.floats(), max_size=3), max_size=3),
    )
    | st.builds(
        ConfigRecord,
        st.dictionaries(
            st.sampled_from(["study", "stage", "round", "sha256", "bytes", "base", "encoding"])
            | TEXT,
            st.sampled_from([UPDATE.sha256, UPDATE.base, "fp32", "student"])
            | TEXT
            | NUMBER
            | st.booleans()
            | st.binary(max_size=9)
            | st.lists(TEXT, max_size=2),
            max_size=3,
        ),
    )
    | st.builds(
        lambda data, name, kind: ArrayRecord({name: Array("uint8", (len(data),), kind, data)}),
        st.binary(max_size=80) | st.just(attempts.GOOD_FILE),
        st.just("safetensors") | TEXT,
        st.just("safetensors") | st.just("numpy.ndarray") | TEXT,
    ),
    max_size=3,
).map(RecordDict)


@FUZZ
@given(RECORDS)
def test_records(content: RecordDict) -> None:
    """A task or a reply inside the study, or a code; the same at the gate and at the server."""
    message = Message(content, 7, "train.round", ttl=60, group_id="2")
    held(lambda: check_task("round", read_task(message), attempts.PREPARED))
    held(lambda: check_reply("round", "student", read_reply(message), attempts.PREPARED))
    objects = attempts.deflated(message)
    held(lambda: admit_request(message, objects.__getitem__, attempts.PREPARED))


GOOD_RECORDS = attempts.pack_reply(attempts.Reply(UPDATE, attempts.SAMPLES, attempts.METRICS))


@FUZZ
@given(
    RECORDS,
    st.sets(st.sampled_from(["metrics", "samples", "update"]), min_size=1),
    st.sampled_from(ENCODINGS),
)
def test_replies_agree(bench: Path, content: RecordDict, good: set[str], encoding: str) -> None:
    """What the gate lets out, the server admits, the file included."""
    for name in good:
        content[name] = GOOD_RECORDS[name]
    request = Message(RecordDict(), 7, "train.round", ttl=60, group_id="2")
    request.metadata.__dict__["_message_id"] = "a" * 64
    objects = attempts.deflated(Message(content, reply_to=request))
    asked = Request(request, "round", "student", 2, {"student": attempts.MODEL})
    prepared = STUDIES[encoding]
    outbox = site(bench, prepared)
    made = verdict(lambda: decide(asked, list(objects)[-1], objects.__getitem__, outbox))
    if made is None:
        return
    outgoing = made.outgoing
    reply = read_reply(
        inflate_object_from_contents(outgoing.tree.object_id, dict(outgoing.objects))
    )
    check_reply("round", "student", reply, prepared, base=attempts.MODEL.sha256)
    assert reply.update is not None
    with outgoing.update.path.open("rb") as stream:
        norm = check_update_file(stream, reply.update, MANIFEST, prepared)
    assert made.entry.norm == pytest.approx(norm)
    assert made.entry.content == reply.update.sha256


@FUZZ
@given(
    which=st.integers(0, 9), edits=EDITS, cut=st.integers(0, 63), value=JSONISH, whole=st.booleans()
)
def test_objects(
    which: int, edits: list[tuple[int, int]], cut: int, value: object, whole: bool
) -> None:
    """A parcel that is whole and canonical, or a code."""
    message = Message(pack_task(attempts.ask()), 7, "train.round", ttl=60)
    kinds = ["Message", "RecordDict", "ConfigRecord"]
    kind = kinds[which % len(kinds)]

    def change(content: bytes) -> bytes:
        if whole:
            return frame(kind, split(content)[1], json.dumps(value).encode())
        return edited(content, edits, cut)

    objects = attempts.forged(
        attempts.deflated(message), lambda found, data: change(data) if found == kind else data
    )
    parcel = verdict(lambda: open_parcel(list(objects)[-1], objects.__getitem__))
    if parcel is not None:
        again = attempts.deflated(Message(RecordDict(_records(parcel.settings)), 7, "train.round"))
        written = {data for name, data in again.items() if b"Message" not in data[:8]}
        assert written <= set(objects.values())
    assert all(sha256(data).hexdigest() == name for name, data in objects.items())


def _records(settings: dict[str, dict[str, object]]) -> dict[str, ConfigRecord]:
    return {name: ConfigRecord(fields) for name, fields in settings.items()}  # type: ignore[arg-type]


@FUZZ
@given(st.binary(max_size=120))
def test_frames(data: bytes) -> None:
    """A frame that is written back the same, or ValueError."""
    try:
        kind, children, body = split(data)
    except ValueError:
        return
    assert frame(kind, children, bytes(body)) == data


def test_the_good_one_passes(tmp_path: Path) -> None:
    """The laws above are not empty."""
    reply = Message(GOOD_RECORDS, 7, "train")
    check_reply("round", "student", read_reply(reply), attempts.PREPARED)
    task = Message(pack_task(attempts.ask()), 7, "train.round")
    check_task("round", read_task(task), attempts.PREPARED)
    for prepared in STUDIES.values():
        sealed = site(tmp_path, prepared).seal("student", 2, UPDATE)
        with sealed.path.open("rb") as stream:
            check_update_file(stream, sealed.ref, MANIFEST, prepared)
