"""What one answer is worth, whether a round counts, and how it is written down."""

import contextlib
import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pytest

from stillroom.common.errors import CODES, ContractError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import LABEL, ROUND, Delta, ModelRef, Reply, Task, UpdateRef
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise
from stillroom.server.rounds.outcome import (
    Answer,
    Outcome,
    judge,
    require_quorum,
    round_record,
)

MANIFEST = Manifest(tensors=(TensorSpec(name="w", shape=(2,), dtype="float32", group="g"),))
GOOD = {"w": np.ones(2, np.float32)}
COUNT = {"g": 3}


def study(min_sites: int = 1) -> Study:
    return Study.parse(
        {
            "study": {
                "name": "outcome",
                "quorum": {"min_sites": min_sites},
                "max_update_norm": 100.0,
            },
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [{"name": "teach", "recipe": "teach", "label": "vessels"}],
        }
    )


PREPARED = PreparedStudy(
    study=study(), stages={"teach": PreparedStage(initial_sha256="0" * 64, manifest=MANIFEST)}
)


BASE = "ab" * 32
TASKS = {
    ROUND: Task("d", "teach", 1, {"teach": ModelRef(BASE, 16)}),
    LABEL: Task("d", "teach", 1, {"teach": ModelRef(BASE, 16, Delta("cd" * 32, "ef" * 32, 4))}),
}


def judged(
    reply: Reply | None,
    code: str | None = None,
    *,
    weights: Mapping[str, Any] | None = None,
    counts_only: bool = False,
    arrives: bool = True,
) -> Outcome:
    """What ``reply`` is worth, with ``weights`` in the file it names."""
    kind = LABEL if counts_only else ROUND
    data = serialise(GOOD if weights is None else weights)
    if reply is not None and reply.update is None and weights is not None:
        digest = hashlib.sha256(data).hexdigest()
        reply = replace(reply, update=UpdateRef("fp32", BASE, digest, len(data)))

    def arrived(_: UpdateRef) -> contextlib.AbstractContextManager[BinaryIO] | None:
        return contextlib.nullcontext(io.BytesIO(data)) if arrives else None

    answer = Answer(reply, code, 1.5)
    return judge(answer, kind=kind, task=TASKS[kind], prepared=PREPARED, arrived=arrived)


OK = Reply(None, COUNT)
TABLE: dict[str, tuple[Mapping[str, Any] | None, Reply, str]] = {
    "nan": ({"w": np.array([1, math.nan], np.float32)}, OK, "STR-303"),
    "infinity": ({"w": np.array([math.inf, 0], np.float32)}, OK, "STR-303"),
    "1e30": ({"w": np.full(2, 1e30, np.float32)}, OK, "STR-303"),
    "extra tensor": ({**GOOD, "x": np.ones(1, np.float32)}, OK, "STR-301"),
    "no tensor": ({}, OK, "STR-301"),
    "no weights": (None, OK, "STR-301"),
    "shape": ({"w": np.ones((1, 2), np.float32)}, OK, "STR-302"),
    "dtype": ({"w": np.ones(2)}, OK, "STR-302"),
    "other bytes": (GOOD, Reply(UpdateRef("fp32", BASE, "0" * 64, 80), COUNT), "STR-311"),
    "other base": (GOOD, Reply(UpdateRef("fp32", "0" * 64, "0" * 64, 80), COUNT), "STR-307"),
    "other encoding": (GOOD, Reply(UpdateRef("bf16-delta", BASE, "0" * 64, 80), COUNT), "STR-300"),
    "no case": (GOOD, Reply(None, {}), "STR-304"),
    "zero cases": (GOOD, Reply(None, {"g": 0}), "STR-304"),
    "foreign metric": (GOOD, Reply(None, COUNT, {"DOE^JANE": 1.0}), "STR-304"),
    "nan metric": (GOOD, Reply(None, COUNT, {"train.loss": math.nan}), "STR-304"),
    "foreign group": (GOOD, Reply(None, {"g": 3, "DOE^JANE": 1}), "STR-304"),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_breaks_a_rule_is_refused_by_code(name: str) -> None:
    """The reason is our own words for the code; nothing the site sent is repeated."""
    weights, reply, code = TABLE[name]
    outcome = judged(reply, weights=weights)

    assert outcome.status == "refused"
    assert outcome.reason == f"{code}: {CODES[code]}"
    assert (outcome.samples, outcome.metrics) == ({}, {})


def test_good_update() -> None:
    """Admitted with its counts, numbers, bytes, seconds, and the file by its digest."""
    outcome = judged(Reply(None, COUNT, {"train.loss": 0.25}), weights=GOOD)
    size = len(serialise(GOOD))

    assert (outcome.status, outcome.samples, outcome.metrics) == (
        "admitted",
        COUNT,
        {"train.loss": 0.25},
    )
    assert (outcome.bytes_up, outcome.bytes_down, outcome.seconds) == (size, 16, 1.5)
    assert outcome.update is not None
    assert outcome.update.sha256 == hashlib.sha256(serialise(GOOD)).hexdigest()


def test_a_file_that_did_not_arrive() -> None:
    """STR-311, and the round goes on."""
    outcome = judged(OK, weights=GOOD, arrives=False)

    assert (outcome.status, outcome.reason[:7]) == ("refused", "STR-311")


def test_counts_only() -> None:
    """Where numbers were asked for, numbers are enough, and a file is too much."""
    numbers = Reply(None, {}, {"pseudo.vessels.written": 50})
    admitted = judged(numbers, counts_only=True)
    assert (admitted.status, admitted.bytes_down) == ("admitted", 4)

    refused = judged(Reply(None, {}, {}), weights=GOOD, counts_only=True)
    assert (refused.status, refused.reason[:7]) == ("refused", "STR-301")
    other = judged(Reply(None, {}, {"train.cases": 5}), counts_only=True)
    assert (other.status, other.reason[:7]) == ("refused", "STR-304")


@pytest.mark.parametrize(
    ("code", "status"),
    [("STR-301", "refused"), ("STR-401", "failed"), ("STR-505", "failed"), ("STR-205", "failed")],
)
def test_a_site_that_says_why_not(code: str, status: str) -> None:
    """A broken protocol is a refusal; everything else a failure of that site."""
    outcome = judged(None, code)

    assert (outcome.status, outcome.reason) == (status, f"{code}: {CODES[code]}")


def test_silence_is_late() -> None:
    """No answer has its own word, and costs the bytes that were sent."""
    outcome = judged(None)

    assert (outcome.status, outcome.bytes_up, outcome.bytes_down) == ("late", 0, 16)


def outcomes(*statuses: str) -> dict[str, Outcome]:
    return {f"site-{n}": Outcome(status) for n, status in enumerate(statuses)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("min_sites", "statuses", "code"),
    [
        (1, ["admitted"], None),
        (1, ["admitted", "late", "failed"], None),
        (2, ["admitted", "admitted", "refused"], None),
        (2, ["admitted", "late", "late"], "STR-306"),
        (3, ["admitted", "admitted"], None),  # two owners of a rare label: both are enough
        (3, ["admitted", "late"], "STR-306"),
        (1, ["late", "failed"], "STR-305"),
        (1, [], "STR-305"),
    ],
)
def test_quorum(min_sites: int, statuses: list[str], code: str | None) -> None:
    """A round below quorum never looks like success."""
    if code is None:
        require_quorum(study(min_sites), "teach", outcomes(*statuses))
        return
    with pytest.raises(ContractError) as caught:
        require_quorum(study(min_sites), "teach", outcomes(*statuses))
    assert caught.value.code == code
    assert "teach" in caught.value.what


def test_record_of_a_round() -> None:
    """Every site is in it, only admitted ones in the order and the sums."""
    one = judged(Reply(None, COUNT, {"train.loss": 0.5}), weights=GOOD)
    record: dict[str, Any] = round_record(
        2,
        {"b": one, "a": judged(Reply(None, {"g": 1}), weights=GOOD), "c": judged(None)},
        seconds=3.14159,
        model="f" * 64,
        epsilon=1.25,
    )

    assert record["order"] == ["b", "a"]
    assert record["samples"] == {"g": 4}
    assert (record["bytes_up"], record["bytes_down"]) == (2 * one.bytes_up, 48)
    assert record["sites"]["c"]["status"] == "late"
    assert "reason" not in record["sites"]["b"]
    assert record["sites"]["b"]["update"] == {
        "sha256": one.update and one.update.sha256,
        "base": BASE,
        "encoding": "fp32",
    }
    assert (record["seconds"], record["model_sha256"]) == (3.142, "f" * 64)
    assert record["epsilon"] == 1.25
