"""What somebody could try to get out of, or into, a site: cases as data."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from attempts import (
    BASE,
    CT,
    GOOD,
    GOOD_FILE,
    METRICS,
    MODEL,
    PATIENT,
    PREPARED,
    Case,
    digest,
    study,
)
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from forgery import (
    body,
    bomb,
    error,
    file,
    filled,
    folder_linked,
    hidden_message,
    in_its_place,
    linked,
    many_tensors,
    meta,
    no_consent,
    numbers,
    old_reply,
    on,
    pickled,
    piped,
    plus_length,
    rewritten,
    swapped,
    task_and,
    task_model,
    task_with,
    twice,
    unknown_field,
    update,
    with_array,
    with_file,
    with_record,
    with_ref,
)

from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    ROUND,
    STAGE,
    Delta,
    ModelRef,
    Task,
    pack_task,
)
from stillroom.common.tensorfile import serialise


def _replies() -> list[Case]:
    def weights(name: str, value: Mapping[str, Any], code: str) -> Case:
        return Case(name, (code,), (code,), reply=update(weights=value))

    def number(name: str, kind: str = ROUND, **metrics: Any) -> Case:
        given = {key.replace("_", "."): value for key, value in metrics.items()}
        made = numbers(**metrics) if kind != ROUND else update(metrics={**METRICS, **given})
        return Case(name, ("STR-304",), ("STR-304",), kind=kind, reply=made)

    def samples(name: str, value: Mapping[str, Any]) -> Case:
        return Case(name, ("STR-304",), ("STR-304",), reply=update(samples=value))

    broken = ("STR-300",)
    patient = Array("int16", CT.shape, "numpy.ndarray", CT.tobytes())
    return [
        weights("extra tensor holding a CT slice", {**GOOD, "scan": CT}, "STR-301"),
        weights("CT slice in place of a tensor", swapped("trunk.weight", CT), "STR-302"),
        weights(
            "right name, other shape", swapped("trunk.bias", GOOD["trunk.bias"][:5]), "STR-302"
        ),
        weights("broadcastable shape", swapped("trunk.bias", GOOD["trunk.bias"][None]), "STR-302"),
        weights("float64", swapped("trunk.bias", np.zeros(64, np.float64)), "STR-302"),
        weights("same bytes as int32", swapped("trunk.bias", np.zeros(64, np.int32)), "STR-302"),
        weights("NaN", filled(np.nan), "STR-303"),
        weights("infinity", filled(-np.inf), "STR-303"),
        weights("1e30", filled(1e30), "STR-303"),
        weights("just over the norm bound", filled(1001.0), "STR-303"),
        weights("flood of subnormal numbers", filled(1e-41, 600), "STR-303"),
        weights("missing tensor", {n: v for n, v in GOOD.items() if "bias" not in n}, "STR-301"),
        weights("no tensor at all", {}, "STR-301"),
        weights(
            "renamed tensor",
            {PATIENT if n == "trunk.bias" else n: v for n, v in GOOD.items()},
            "STR-301",
        ),
        weights("oversize", {**GOOD, "scan": np.zeros((8, 512, 512), np.int16)}, "STR-301"),
        Case("10^6 tiny tensors", ("STR-301",), ("STR-301",), reply=with_file(many_tensors)),
        Case(
            "text in the file's metadata",
            broken,
            broken,
            reply=with_file(
                rewritten(lambda h: b'{"__metadata__":{"p":"%s"},' % PATIENT.encode() + h[1:])
            ),
        ),
        Case(
            "white space in the file's header",
            broken,
            broken,
            reply=with_file(rewritten(lambda h: h.replace(b",", b", "))),
        ),
        Case(
            "one name twice in the file's header",
            broken,
            broken,
            reply=with_file(
                rewritten(
                    lambda h: h[:-1] + b',"trunk.bias":' + h.split(b'"trunk.bias":')[1][:60] + b"}"
                )
            ),
        ),
        Case(
            "bytes after the last tensor",
            broken,
            broken,
            reply=with_file(rewritten(lambda h: h, CT.tobytes()[:64])),
        ),
        Case("pickled array", broken, broken, reply=with_array(pickled())),
        Case("CT slice as an array of its own", broken, broken, reply=with_array(patient, "scan")),
        Case(
            "second record of arrays",
            broken,
            broken,
            reply=with_record("scan", ArrayRecord({"safetensors": file(GOOD_FILE)})),
        ),
        Case(
            "string in metrics",
            broken,
            broken,
            reply=with_record("metrics", ConfigRecord({"train.loss": PATIENT})),
        ),
        Case(
            "nested record",
            broken,
            broken,
            reply=with_record("more", ConfigRecord({"json": json.dumps({"p": PATIENT})})),
        ),
        Case(
            "list in metrics",
            ("STR-304",),
            ("STR-304",),
            reply=with_record("metrics", MetricRecord({"train.loss": [1.0, 57.0]})),
        ),
        number("patient name as a metric's key", **{PATIENT: 1.0}),
        number("not a number as a metric", train_loss=float("nan")),
        number("huge number as a metric", train_loss=1.957e300),
        number("another stage's metric", eval_cases=5),
        number("count below the minimum cohort", INVENTORY, inventory_cases=2),
        number(
            "score of fewer scans than that",
            STAGE,
            **{"eval.vessels.vessel.cases": 0, "eval.vessels.vessel.dice": 0.1957},
        ),
        number("score of scans nobody counted", STAGE, **{"eval.vessels.vessel.dice": 0.1957}),
        number("fraction of a case", INVENTORY, inventory_cases=1957.0302),
        number("negative count", LABEL, **{"pseudo.vessels.written": -4}),
        number("training numbers in an inventory", INVENTORY, train_loss=0.1),
        Case(
            "weights in an inventory",
            ("STR-301",),
            ("STR-301",),
            kind=INVENTORY,
            reply=update(metrics={"inventory.cases": 4}),
        ),
        Case(
            "weights after labelling",
            ("STR-301",),
            ("STR-301",),
            kind=LABEL,
            reply=update(metrics={}),
        ),
        Case(
            "weights with scores", ("STR-301",), ("STR-301",), kind=STAGE, reply=update(metrics={})
        ),
        Case(
            "no weights where they were asked for",
            ("STR-301",),
            ("STR-301",),
            reply=numbers(train_cases=4),
        ),
        samples("sample count 0", {"trunk": 0, "head.vessels": 0}),
        samples("sample count negative", {"trunk": -4, "head.vessels": 4}),
        samples("sample count 1e9", {"trunk": 10**9, "head.vessels": 4}),
        samples("sample count with a fraction", {"trunk": 4.5, "head.vessels": 4}),
        samples("sample count of an unknown group", {"trunk": 4, PATIENT: 4}),
        Case("exception text with a name", broken, broken, reply=error(f"KeyError: {PATIENT}")),
        Case("code nobody registered", broken, broken, reply=error("STR-999")),
        Case("code with a name behind it", broken, broken, reply=error(f"STR-401 {PATIENT}")),
        # The routing below is Flower's on the server's side: these never reach the study.
        Case("other run's round", ("STR-307",), reply=meta(run_id=99)),
        Case("answer to another node", ("STR-307",), reply=meta(dst_node_id=12345)),
        Case("answer of another type", ("STR-307",), reply=meta(message_type="query")),
        Case("text in the group id", ("STR-307",), reply=meta(group_id=PATIENT)),
        Case("replay: an answer nobody asked for", ("STR-307",), reply=old_reply, stray=True),
        Case(
            "zip bomb: one chunk 10^5 times",
            broken,
            broken,
            reply=with_array(file(GOOD_FILE)),
            forge=on("Array", body(bomb)),
        ),
        Case("unknown field in a message", broken, forge=on("Message", body(unknown_field))),
        Case("unknown field in a record", broken, forge=on("MetricRecord", body(unknown_field))),
        Case(
            "content inside the message's frame", broken, forge=on("Message", body(hidden_message))
        ),
        Case("metric twice", broken, forge=on("MetricRecord", body(twice))),
        Case(
            "white space between records",
            broken,
            forge=on("RecordDict", body(lambda b: b.replace(b", ", b",  "))),
        ),
        Case("length with a sign", broken, forge=on("MetricRecord", plus_length)),
        Case(
            "array of arrays",
            broken,
            broken,
            reply=with_array(file(GOOD_FILE)),
            forge=on("Array", body(lambda b: b"[" * 50_000)),
        ),
        Case(
            "array without a length",
            broken,
            broken,
            reply=with_array(file(GOOD_FILE)),
            forge=on("Array", body(lambda _: b"{}")),
        ),
    ]


def _files() -> list[Case]:
    """What a runner could do with the file itself, or say of it."""
    broken, other, absent = ("STR-300",), ("STR-307",), ("STR-311",)
    cut, longer = GOOD_FILE[:-64], GOOD_FILE + CT.tobytes()[:64]
    # A change of the weights, in its right encoding: making it is the courier's work alone.
    delta = b"STILL\x01\r\n\x01" + b"\x00" * 400
    return [
        Case(
            "weights of the round before", other, other, reply=with_file(GOOD_FILE, base="b" * 64)
        ),
        Case(
            "file named by another digest",
            absent,
            absent,
            reply=with_file(GOOD_FILE, name="a" * 64),
        ),
        Case("file that is not there", absent, absent, reply=with_ref(sha256="c" * 64)),
        Case(
            "file of another size than told",
            absent,
            absent,
            reply=with_ref(bytes=len(GOOD_FILE) - 4),
        ),
        Case("size of a terabyte", ("STR-301",), ("STR-301",), reply=with_ref(bytes=1 << 40)),
        Case("size of minus one", broken, broken, reply=with_ref(bytes=-1)),
        Case("path in place of a digest", broken, broken, reply=with_ref(sha256="../../site.key")),
        Case("absolute path as a digest", broken, broken, reply=with_ref(sha256="/data/ct/scan")),
        Case("digest in capitals", broken, broken, reply=with_ref(sha256="A" * 64)),
        Case("name in the base", broken, broken, reply=with_ref(base=PATIENT)),
        Case("encoding nobody knows", broken, broken, reply=with_ref(encoding=PATIENT)),
        Case(
            "encoding that is not the stage's",
            broken,
            broken,
            reply=with_ref(encoding="int8-delta"),
        ),
        Case("more fields about the file", broken, broken, reply=with_ref(note=PATIENT)),
        Case("file cut short", broken, broken, reply=with_file(cut)),
        Case("file with a CT slice behind it", broken, broken, reply=with_file(longer)),
        Case("empty file", broken, broken, reply=with_ref(bytes=0)),
        Case("pickle in place of the file", broken, broken, reply=with_file(pickled().data)),
        Case("encoded file in place of a plain one", broken, broken, reply=with_file(delta)),
        # Of these three the server sees what the runner wrote, and that is good.
        Case("link in place of the file", absent, reply=in_its_place(linked)),
        Case("link in place of the folder", absent, reply=in_its_place(folder_linked)),
        Case("pipe in place of the file", absent, reply=in_its_place(piped)),
        Case(
            "weights past the check in a delta stage",
            ("STR-303",),
            reply=with_file(serialise(filled(1e30))),
            prepared=study("bf16-delta"),
        ),
        Case(
            "CT slice in a delta stage",
            ("STR-301",),
            reply=with_file(serialise({**GOOD, "scan": CT})),
            prepared=study("int8-delta"),
        ),
        Case(
            "update already encoded by the runner",
            broken,
            reply=with_ref(encoding="bf16-delta"),
            prepared=study("bf16-delta"),
        ),
    ]


def _requests() -> list[Case]:
    """What comes from the server and never reaches the runner."""
    code = ConfigRecord({"content": b"PK\x03\x04" + b"import os"})
    # As long as the good one, to the byte, and of other tensors.
    other = serialise(BASE).replace(b"trunk.bias", b"trunk.bios")
    twin = ModelRef(digest(other), len(other))
    changed = Task(
        PREPARED.digest,
        "student",
        2,
        {"student": replace(MODEL, delta=Delta("d" * 64, "e" * 64, 400))},
    )
    broken, outside, tensors = ("STR-300",), ("STR-205",), ("STR-301",)
    study_digest = PREPARED.digest
    return [
        Case("control message from the fleet side", broken, message_type="system.shutdown"),
        Case("unknown message type", broken, message_type="train.upload"),
        Case("message type without an action", broken, message_type="train"),
        Case("FAB with code", broken, content=task_and("fab", code)),
        Case("run config with a path", broken, content=task_with(data="/data/ct")),
        Case("path in place of a round", broken, content=task_with(round="/data/ct")),
        Case("wrong study digest", outside, content=task_with(study="0" * 64)),
        Case("unknown stage", outside, content=task_with(stage="exfiltrate")),
        Case("stage of another recipe", outside, content=task_with(stage="apply", round=1)),
        Case(
            "round beyond the budget",
            outside,
            content=task_with(round=PREPARED.study.stage_named("student").rounds + 1),
        ),
        Case("round 0", outside, content=task_with(round=0)),
        Case("empty message", broken, content=RecordDict),
        Case(
            "task without weights",
            outside,
            content=lambda: pack_task(Task(study_digest, "student", 1)),
        ),
        Case(
            "task with other tensors",
            tensors,
            content=lambda: pack_task(Task(study_digest, "student", 1, {"student": twin})),
            served=lambda _: other,
        ),
        Case(
            "teacher the stage does not have",
            outside,
            content=lambda: pack_task(
                Task(study_digest, "student", 1, {"student": MODEL, "teach-a": MODEL})
            ),
        ),
        Case("task larger than the study", tensors, content=task_model(bytes=len(GOOD_FILE) + 4)),
        Case("task of a terabyte", tensors, content=task_model(bytes=1 << 40)),
        Case("change of weights where they are whole", outside, content=lambda: pack_task(changed)),
        Case("path in place of a model", broken, content=task_model(sha256="../updates/x")),
        Case("model that is not what its name says", ("STR-311",), served=lambda data: data[::-1]),
        Case(
            "array in a task", broken, content=task_and("weights", ArrayRecord({"w": file(b"x")}))
        ),
        Case("numbers in a task", broken, content=task_and("metrics", MetricRecord({"a": 1}))),
        Case(
            "object that is not what its name says",
            broken,
            damage=on("ConfigRecord", lambda b: b + b"x"),
        ),
        Case("task without consent", ("STR-208",), permit=no_consent),
    ]


def withdrawn_meanwhile() -> Case:
    """Consent is there when the task comes and gone when its answer leaves."""
    asked: list[int] = []

    def permit() -> None:
        asked.append(1)
        if len(asked) > 1:
            no_consent()

    return Case("update without consent", ("STR-208",), permit=permit)


CASES = [*_replies(), *_files(), *_requests(), withdrawn_meanwhile()]
