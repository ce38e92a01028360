"""No more noised updates leave than epsilon accounts for, whatever is lost and whoever asks again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillroom.client import gate
from stillroom.client.budget import Budget
from stillroom.client.ledger import Entry, Ledger, Line, read
from stillroom.common.accounting import epsilons
from stillroom.common.errors import TrustError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.study import PreparedStage, PreparedStudy, Study

STUDY = Study.parse(
    {
        "study": {"name": "counted"},
        "volume": {"spacing_mm": [1, 1, 1], "patch": [16, 16, 16]},
        "label": {"ball": {"kind": "mask", "classes": ["ball"]}},
        "model": {
            "teacher": {"arch": "dynunet", "channels": [4, 8]},
            "student": {"arch": "light-swin", "feature_size": 12},
        },
        "stage": [
            {"name": "teach", "recipe": "teach", "label": "ball", "rounds": 2},
            {
                "name": "student",
                "recipe": "distil",
                "rounds": 2,
                "privacy": {"clip_norm": 1.0, "noise_multiplier": 4.0},
            },
        ],
    }
)
SPEC = TensorSpec(name="w", shape=(2,), dtype="float32", group="g")
BARE = PreparedStage(initial_sha256="0" * 64, manifest=Manifest(tensors=(SPEC,)))
NOISED = BARE.model_copy(update={"epsilon": epsilons(4.0, 1e-5, rounds=2)})
PREPARED = PreparedStudy(study=STUDY, stages={"teach": BARE, "student": NOISED})


def line(content: str, *, stage: str = "student", kind: str = "sent", study: str = "") -> Line:
    return Line.model_validate(
        {
            "sequence": 0,
            "prev": "0" * 64,
            "study": study or PREPARED.digest,
            "stage": stage,
            "kind": kind,
            "content": content * 64,
            "decision": "allowed",
        }
    )


def test_one_more_than_accounted_for_stays() -> None:
    """Two rounds, two files; the same file may leave again, a third one never."""
    budget = Budget(PREPARED, [])
    for content in ("a" * 64, "b" * 64):
        budget.require("student", content)
        budget.spend("student", content)

    budget.require("student", "a" * 64)
    with pytest.raises(TrustError) as caught:
        budget.require("student", "c" * 64)
    assert caught.value.code == "STR-215"


def test_the_ledger_remembers_over_restarts_and_runs() -> None:
    """Only what left, of this study and stage, counts."""
    lines = [
        line("a"),
        line("a"),
        line("b", kind="withheld"),
        line("c", stage="teach"),
        line("d", study="1" * 64),
    ]
    budget = Budget(PREPARED, lines)
    budget.require("student", "b" * 64)
    budget.spend("student", "b" * 64)

    with pytest.raises(TrustError):
        budget.require("student", "c" * 64)


def test_the_gate_asks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third update is refused with its code, after a restart of the courier too."""
    contents = iter("aabcc")

    def decide(*_: Any) -> Any:
        entry = Entry(
            kind="sent",
            decision="allowed",
            study=PREPARED.digest,
            stage="student",
            content=next(contents) * 64,
        )
        return gate.Decision(SimpleNamespace(), entry)

    def refuse(_: Any, code: str, __: Any) -> Any:
        entry = Entry(kind="refused", decision="refused", code=code)
        return gate.Decision(SimpleNamespace(), entry)

    monkeypatch.setattr(gate, "decide", decide)
    monkeypatch.setattr(gate, "refuse", refuse)
    unused: Any = None
    for releases in (3, 2):
        with Ledger(tmp_path / "ledger.jsonl") as ledger:
            at = gate.Gate(PREPARED, ledger, unused)
            for _ in range(releases):
                at.release(unused, "", unused)

    codes = [entry.code for entry in read(tmp_path / "ledger.jsonl")]
    assert codes == ["", "", "", "STR-215", "STR-215"]


def test_a_stage_without_privacy_has_no_budget() -> None:
    """Counts and scores have no file, and bare weights no epsilon."""
    budget = Budget(PREPARED, [])
    for number in range(9):
        budget.require("teach", str(number) * 64)
        budget.spend("teach", str(number) * 64)
    budget.require("", "")
