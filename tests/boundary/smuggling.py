"""What somebody could try to get out of, or into, a site: cases as data."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from attempts import CT, GOOD, METRICS, PATIENT, PREPARED, Case
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from forgery import (
    body,
    bomb,
    error,
    file,
    filled,
    hidden_message,
    many_tensors,
    meta,
    no_consent,
    numbers,
    old_reply,
    on,
    pickled,
    plus_length,
    rewritten,
    swapped,
    task_and,
    task_with,
    twice,
    unknown_field,
    update,
    with_array,
    with_record,
)

from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    ROUND,
    STAGE,
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
        Case("10^6 tiny tensors", ("STR-301",), broken, reply=with_array(many_tensors())),
        Case(
            "text in the file's metadata",
            broken,
            broken,
            reply=with_array(
                rewritten(lambda h: b'{"__metadata__":{"p":"%s"},' % PATIENT.encode() + h[1:])
            ),
        ),
        Case(
            "white space in the file's header",
            broken,
            broken,
            reply=with_array(rewritten(lambda h: h.replace(b",", b", "))),
        ),
        Case(
            "one name twice in the file's header",
            broken,
            broken,
            reply=with_array(
                rewritten(
                    lambda h: h[:-1] + b',"trunk.bias":' + h.split(b'"trunk.bias":')[1][:60] + b"}"
                )
            ),
        ),
        Case(
            "bytes after the last tensor",
            broken,
            broken,
            reply=with_array(rewritten(lambda h: h, CT.tobytes()[:64])),
        ),
        Case("pickled array", broken, broken, reply=with_array(pickled())),
        Case("CT slice as an array of its own", broken, broken, reply=with_array(patient, "scan")),
        Case(
            "second record of arrays",
            broken,
            broken,
            reply=with_record("scan", ArrayRecord({"safetensors": file(serialise(GOOD))})),
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
        Case("zip bomb: one chunk 10^5 times", ("STR-301",), broken, forge=on("Array", body(bomb))),
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
        Case("length with a sign", broken, forge=on("ArrayChunk", plus_length)),
        Case("array of arrays", broken, broken, forge=on("Array", body(lambda b: b"[" * 50_000))),
        Case("array without a length", broken, broken, forge=on("Array", body(lambda _: b"{}"))),
    ]


def _requests() -> list[Case]:
    """What comes from the server and never reaches the runner."""
    code = ConfigRecord({"content": b"PK\x03\x04" + b"import os"})
    other = {"trunk.weight": np.zeros(3, np.float32)}
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
        Case("round beyond the budget", outside, content=task_with(round=4)),
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
            content=lambda: pack_task(Task(study_digest, "student", 1, other)),
        ),
        Case(
            "teacher the stage does not have",
            tensors,
            content=lambda: pack_task(Task(study_digest, "student", 1, GOOD, {"teach-a": GOOD})),
        ),
        Case(
            "task larger than the study",
            tensors,
            content=lambda: pack_task(
                Task(study_digest, "student", 1, {**GOOD, "more": np.zeros(3 << 20, np.float32)})
            ),
        ),
        Case("numbers in a task", broken, content=task_and("metrics", MetricRecord({"a": 1}))),
        Case(
            "object that is not what its name says",
            broken,
            damage=on("ArrayChunk", lambda b: b + b"x"),
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


CASES = [*_replies(), *_requests(), withdrawn_meanwhile()]
