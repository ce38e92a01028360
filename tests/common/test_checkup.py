"""A checkup: order, skipping, crashes, exit status, and a report that names nothing."""

import pytest

from stillroom.common.checkup import (
    Check,
    Finding,
    examine,
    failed,
    ok,
    report,
    skipped,
    warning,
    worst,
)
from stillroom.common.errors import TrustError


def fails(_: object) -> Finding:
    return failed("It is broken.", "Mend it.", "STR-504", told="broken")


def crashes(_: object) -> Finding:
    raise KeyError("/data/patient-7")


def refuses(_: object) -> Finding:
    raise TrustError("/etc/site.key is open.", fix="Close it.", code="STR-202")


def test_a_failure_does_not_stop_the_others() -> None:
    """What does not rest on it is looked at; what does says whose failure it waits for."""
    checks = (
        Check("line", fails),
        Check("answer", lambda _: ok("yes"), needs=("line",)),
        Check("version", lambda _: ok("1"), needs=("answer",)),
        Check("disk", lambda _: ok("room")),
    )
    results = {r.name: r.finding for r in examine(checks, None)}
    assert results["line"].outcome == "failed"
    assert results["answer"].saw == 'skipped: because "line" failed'
    assert results["version"].saw == 'skipped: because "line" failed'
    assert results["disk"].outcome == "ok"


def test_what_has_nothing_to_look_at_holds_nobody_back() -> None:
    """A proxy that is not used is no failure, nor is a warning."""
    checks = (
        Check("proxy", lambda _: skipped("none is used")),
        Check("age", lambda _: warning("old", "Renew it.")),
        Check("line", lambda _: ok("up"), needs=("proxy", "age")),
    )
    assert [r.finding.outcome for r in examine(checks, None)] == ["skipped", "warning", "ok"]


def test_unless_is_about_that_check_alone() -> None:
    """A clock that could not be looked at is no reason not to look at a certificate."""
    checks = (
        Check("line", fails),
        Check("clock", lambda _: ok("right"), needs=("line",)),
        Check("certificate", lambda _: ok("holds"), unless=("clock",)),
        Check("other", lambda _: ok("holds"), unless=("line",)),
    )
    outcomes = [r.finding.outcome for r in examine(checks, None)]
    assert outcomes == ["failed", "skipped", "ok", "skipped"]


def test_a_crash_is_a_finding() -> None:
    """With a code and the kind of mistake; nothing of its text, which may name anything."""
    (result,) = examine((Check("odd", crashes),), None)
    assert result.finding.code == "STR-505"
    assert "KeyError" in result.finding.saw
    assert "patient" not in str(result.as_json())


def test_an_expected_error_is_told_with_its_fix() -> None:
    """As the command line would."""
    (result,) = examine((Check("key", refuses),), None)
    assert (result.finding.code, result.finding.do) == ("STR-202", "Close it.")


@pytest.mark.parametrize(
    ("looks", "status"),
    [
        ([], 0),
        ([lambda _: ok("a"), lambda _: skipped("b")], 0),
        ([lambda _: ok("a"), lambda _: warning("b", "c")], 1),
        ([lambda _: warning("b", "c"), fails], 2),
    ],
)
def test_the_worst_decides(looks: list[object], status: int) -> None:
    """Exit status 0, 1 or 2."""
    checks = [Check(str(n), look) for n, look in enumerate(looks)]  # type: ignore[arg-type]
    assert worst(examine(checks, None)) == status


def test_the_report_holds_what_may_be_told_and_no_more() -> None:
    """Outcomes, codes and their registered texts; not what was seen, nor what to do."""
    checks = (
        Check("line", fails),
        Check("key", refuses),
        Check("name", lambda _: ok("fl.example.org is 10.0.0.1", told="1 address")),
    )
    text = report(examine(checks, None), title="doctor")
    assert "broken" in text
    assert "1 address" in text
    assert "STR-202: A private key is readable by others." in text
    for secret in ("Mend", "/etc", "Close", "example", "10.0.0.1"):
        assert secret not in text


def test_a_code_that_nobody_registered_is_a_mistake() -> None:
    """It would be searched for in vain."""
    with pytest.raises(ValueError, match="registered"):
        failed("a", "b", "STR-999")
