"""Logs that are unusual and true: nothing in them may be taken for a lie."""

import tampering
from generation import RUN, STUDY_SHA256, World, sha256
from tampering import COUNTED, Entries, edited, position

from stillroom.common import log_entries as said
from stillroom.server.audit.findings import Finding
from stillroom.server.audit.ledgers import read_ledger


def failures(world: World, change: object) -> list[Finding]:
    findings = tampering.retold(tampering.bench_of(world), change).findings()
    return [finding for finding in findings if finding.result == "FAILED"]


def test_a_run_that_was_resumed_in_a_round(world: World) -> None:
    """The server died with a round open: the run goes on, the round is opened again, answers come twice."""

    def change(entries: Entries) -> Entries:
        opening = position(entries, said.RoundOpened, **COUNTED)
        commit = position(entries, said.RoundCommitted, **COUNTED)
        begun = entries[opening : commit - 1]
        start = entries[position(entries, said.StudyStarted)]
        again = start.model_copy(update={"act": "resumed", "time": begun[-1].time})
        redone = [entry.model_copy(update={"time": begun[-1].time}) for entry in begun]
        return [*entries[: commit - 1], again, *redone, *entries[commit - 1 :]]

    assert failures(world, change) == []


def test_an_answer_that_comes_after_the_commit(world: World) -> None:
    """A late answer is written down when it comes, and counts for nothing."""

    def change(entries: Entries) -> Entries:
        at = position(entries, said.RoundCommitted, stage="distil", round=4)
        first = position(entries, said.Update, stage="distil", round=4, site="river")
        late = entries[first].model_copy(update={"sha256": sha256(b"late"), "bytes": 4})
        late = late.model_copy(update={"time": entries[at].time})
        return [*entries[: at + 1], late, *entries[at + 1 :]]

    assert failures(world, change) == []


def test_a_run_that_failed(world: World) -> None:
    """No lie: a warning says that it ended without a result."""

    def change(entries: Entries) -> Entries:
        at = position(entries, said.RoundCommitted, **COUNTED)
        end = said.StudyFinished(
            time=entries[at].time,
            study=STUDY_SHA256,
            run=RUN,
            status="failed",
            code="STR-306",
            complete_participation=False,
            result_sha256=sha256(b"result"),
        )
        return [*entries[: at + 1], end]

    findings = tampering.retold(tampering.bench_of(world), change).findings()

    assert [f for f in findings if f.result == "FAILED"] == []
    assert [f.where for f in findings if f.number == 37 and f.result == "warning"]


def test_a_log_in_the_middle_of_a_run(world: World) -> None:
    """An open round and a run without an end are warnings."""

    def change(entries: Entries) -> Entries:
        return entries[: position(entries, said.Update, **COUNTED) + 1]

    findings = tampering.retold(tampering.bench_of(world), change).findings()

    assert [f for f in findings if f.result == "FAILED"] == []
    assert {30, 37} <= {f.number for f in findings if f.result == "warning"}


def test_a_site_that_comes_back_with_new_keys(world: World) -> None:
    """Revoked, invited anew, approved with another key: its old consent counts no more."""
    key = tampering.public_key_hex(tampering.key("new key of lake"))

    def change(entries: Entries) -> Entries:
        at = position(entries, said.StudyFinished)
        more = [
            said.Member(time=entries[at].time, site="lake", act="revoked"),
            said.Member(time=entries[at].time, site="lake", act="invited"),
            said.Member(time=entries[at].time, site="lake", act="approved", signing_key=key),
        ]
        return [*entries[: at + 1], *more, *entries[at + 1 :]]

    found = failures(world, change)

    # The checkpoint of this retold log is cosigned with lake's old key: not lake's word any more.
    assert {f.number for f in found} == {7}


def test_a_ledger_with_more_than_the_log(world: World) -> None:
    """What left after the log's last entry, or came too late, is said and is no lie."""

    def change(entries: Entries) -> Entries:
        update = {"status": "late", "sha256": None, "bytes": 0, "samples": {}}
        fresh = edited(entries, said.Update, tampering.NORTH, **update)
        missing = {"north": "no answer in time"}
        totals = {"all": 22, "distil": 8}
        return edited(
            fresh,
            said.RoundCommitted,
            COUNTED,
            order=("lake", "river"),
            missing=missing,
            totals=totals,
        )

    bench = tampering.with_ledgers(tampering.retold(tampering.bench_of(world), change))
    findings = bench.findings()

    assert [f for f in findings if f.result == "FAILED"] == []
    assert any(f.number == 51 and "came in time" in f.meaning for f in findings)


def test_ledgers_of_any_bytes() -> None:
    """A ledger that is none is a finding, never a crash."""
    for data in (b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"a":1}', b"{" * 100_000 + b"\n"):
        ledger = read_ledger(data, "x")
        assert ledger.lines == 0
        assert bool(ledger.problems) == (b"\n" in data)
