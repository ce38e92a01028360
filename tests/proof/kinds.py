"""An entry of every kind and with every act, status and way to end: what exports are tried with."""

from collections.abc import Iterator
from typing import Any

from stillroom.common import log_entries as said

TIME = "2026-03-02T08:00:01.250Z"
A, B = "a" * 64, "b" * 64
PLACE: dict[str, Any] = {"time": TIME, "study": A, "stage": "distil", "round": 3}
WHY = {"lake": "no answer in time", "river": "refused, STR-303"}


def every_entry() -> list[said.Entry]:
    """All of them; texts hold what XML, JSON and spreadsheets stumble over."""
    return [*_people(), *_runs(), *_rounds(), *_rest()]


def _people() -> Iterator[said.Entry]:
    yield said.ConsortiumOpened(time=TIME, version=1772438400, sha256=A)
    for act in ("invited", "approved", "renewed", "revoked"):
        yield said.Member(time=TIME, site="north", act=act, certificate_sha256=A, signing_key=B)
    for act in ("given", "withdrawn"):
        yield said.Consent(time=TIME, site="north", study=A, act=act, record='{"site":"north"}')
    yield said.Operator(time=TIME, act='put "<study>" & more\x01\n', subject="=tavi\té")


def _runs() -> Iterator[said.Entry]:
    for act in ("started", "resumed", "stopped"):
        yield said.StudyStarted(time=TIME, study=A, name="tavi", run="run-1", act=act, witnesses=2)
    yield said.StageOpened(
        time=TIME, study=A, stage="distil", recipe="distil", rounds=3, leaves="student",
        initial_sha256=A, teachers={"teach": B},
    )  # fmt: skip
    yield said.StudyFinished(
        time=TIME, study=A, run="run-1", status="completed", complete_participation=False,
        models={"distil": A}, result_sha256=B,
    )  # fmt: skip
    yield said.StudyFinished(
        time=TIME, study=A, run="run-1", status="failed", code="STR-306",
        complete_participation=False, result_sha256=B,
    )  # fmt: skip


def _rounds() -> Iterator[said.Entry]:
    yield said.RoundOpened(**PLACE, base_sha256=A, invited=("north", "river"), left_out=WHY)
    yield said.RoundOpened(**PLACE, invited=(), left_out=WHY)
    yield said.Update(
        **PLACE, site="north", status="admitted", sha256=A, bytes=5, encoding="fp32", base_sha256=B,
        samples={"all": 11}, counts={"aorta": 9}, metrics_sha256=A,
    )  # fmt: skip
    for status, code in (("refused", "STR-303"), ("failed", "STR-503"), ("late", None)):
        yield said.Update(**PLACE, site="river", status=status, code=code)
    for missing in ({}, WHY):
        yield said.RoundCommitted(
            **PLACE, order=("north",), totals={"all": 11}, model_sha256=A, record_sha256=B,
            expected=("north", *missing), missing=missing, epsilon=1.25,
        )  # fmt: skip
        yield said.Scored(
            **PLACE, model_sha256=A, sites=("north", "summit"), missing=missing, scores_sha256=B
        )


def _rest() -> Iterator[said.Entry]:
    yield said.Release(time=TIME, study=A, name="tavi-1", statement_sha256=A, student_sha256=B)
    yield said.Witnessed(time=TIME, checkpoint="example/log\n3\nAAAA\n\n— example/log AAAA\n")
    yield said.Refused(time=TIME, since=TIME, reasons={"no\x01certificate": 3, "STR-201": 1})
