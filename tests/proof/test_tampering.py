"""Whatever is done to a log, a ledger or a release, the audit says so, and where."""

import flips
import pytest
import tampering
from generation import World


def test_the_honest_log_holds(world: World) -> None:
    """Before anything is done to it nothing FAILED; who was missing is a warning, not a failure."""
    bench = tampering.with_release(
        tampering.with_ledgers(tampering.with_seen(tampering.bench_of(world)))
    )

    findings = bench.findings()

    assert [f for f in findings if f.result == "FAILED"] == []
    assert {f.number for f in findings if f.result == "warning"} == {36}
    assert {f.number for f in findings} == tampering.titles().keys()


@pytest.mark.parametrize("one", tampering.ATTACKS, ids=lambda one: one.name)
def test_every_attack_is_detected(world: World, one: tampering.Attack) -> None:
    """By the check that is there for it, with a finding that says where and what it means."""
    finding = tampering.detected(one, tampering.bench_of(world))

    assert finding is not None
    assert finding.where
    assert finding.meaning.endswith(".") or "STR-" in finding.meaning


def test_a_lie_retold_changes_nothing_else(world: World) -> None:
    """The instrument itself: a log told again without a change is found whole."""
    again = tampering.retold(tampering.bench_of(world), lambda entries: entries)
    assert [f for f in again.findings() if f.result == "FAILED"] == []


def test_flips(world: World) -> None:
    """A byte flipped in any published file; ``make proof`` tries every position."""
    for kind, (found, tried) in flips.flip_all(tampering.bench_of(world), stride=997).items():
        assert found == tried, kind


def test_flips_by_a_whole_verification(world: World) -> None:
    """The short way of judging a flip is the way ``verify`` goes."""
    found, tried = flips.flip_some(tampering.bench_of(world), 0)
    assert found == tried
