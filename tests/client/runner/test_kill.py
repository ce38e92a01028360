"""Runners killed at every moment of a round: nothing is lost, and nothing is done twice."""

import os
import signal
import time
from typing import Any

import pytest

from stillroom.client.pausing import mirror, pause, resume
from stillroom.common.canonical import file_digest
from stillroom.common.errors import ContractError

pytestmark = pytest.mark.usefixtures("inside_a_task")

BEFORE_COMMIT = [
    "before training",
    "while training",
    "after training",
    "update written",
    "while committing",
]
AFTER_COMMIT = ["committed", "while replying", "replied"]


@pytest.mark.parametrize("moment", [*BEFORE_COMMIT, *AFTER_COMMIT])
def test_a_killed_runner_loses_at_most_what_it_had_not_finished(
    household: Any, moment: str
) -> None:
    """The same task asked again is worked out once more, or never when it had been committed.

    Rounds 1 and 3 go well and round 2 is killed: each of them must find what its stage remembers
    one round further, neither lost nor counted twice.
    """
    pid = household.start()
    with household.desk() as desk:
        desk.hand_over(household.task(1))
        assert desk.reply().update is not None
    os.kill(pid, signal.SIGTERM)
    assert household.ended(pid) == 0

    with household.desk() as desk:
        pid = household.start(moment)
        desk.hand_over(household.task(2))
        assert household.ended(pid) == -signal.SIGKILL
    committed = household.site.answers.find("round", household.task(2))
    assert (committed is not None) == (moment in AFTER_COMMIT)

    with household.desk() as desk:
        pid = household.start()
        desk.hand_over(household.task(2))
        second = desk.reply()
        assert second.update is not None
        path = household.site.exchange.update(second.update.sha256)
        assert file_digest(path) == second.update.sha256
        assert len(list(path.parent.iterdir())) == 1
        if committed is not None:
            assert second == committed
    with household.desk() as desk:  # and once more, by another courier and the same runner
        desk.hand_over(household.task(2))
        assert desk.reply() == second
        desk.hand_over(household.task(3))
        assert desk.reply().update is not None

    trace = household.traced()
    assert trace.count("trained 2") == 1 + (
        moment in BEFORE_COMMIT and moment not in {"before training", "while training"}
    )
    assert {line for line in trace if line.startswith("step")} == {
        "step 1 0",
        "step 2 1",
        "step 3 2",
    }


def test_a_runner_that_is_told_to_stop_leaves_its_task(household: Any) -> None:
    """Within two seconds in the middle of a round, without calling it a failure; the next does it."""
    with household.desk() as desk:
        pid = household.start(step_s=0.3)
        desk.hand_over(household.task(1))
        _until(household.traced)
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert household.ended(pid) == 0
        assert time.monotonic() - started < 2
        assert not desk.state.get_messages_legacy(is_reply=True)
        assert "trained 1" not in household.traced()
    with household.desk() as desk:
        household.start()
        desk.hand_over(household.task(1))
        assert desk.reply().update is not None


def test_a_paused_site_stops_at_its_next_step(household: Any) -> None:
    """With a code that the courier knows; afterwards the same runner does the same task again."""
    state = household.site.config.courier_state
    exchange = household.site.config.exchange
    with household.desk() as desk:
        household.start(step_s=0.3)
        desk.hand_over(household.task(1))
        _until(household.traced)
        pause(state)
        mirror(state, exchange)
        with pytest.raises(ContractError, match="STR-515"):
            desk.reply(2)
        assert "trained 1" not in household.traced()
        resume(state)
        mirror(state, exchange)
        desk.hand_over(household.task(1))
        assert desk.reply().update is not None
    assert household.traced().count("trained 1") == 1


def test_a_runner_in_one_long_step_is_gone_as_well(household: Any) -> None:
    """It may be killed at any moment, so nobody need wait for the end of a step."""
    with household.desk() as desk:
        pid = household.start(step_s=30)
        desk.hand_over(household.task(1))
        _until(household.traced)
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        household.ended(pid)
        assert time.monotonic() - started < 3


def test_a_courier_that_dies_meanwhile_finds_the_work_done(household: Any) -> None:
    """The runner finishes what it was given, keeps it, and answers the next courier with it."""
    with household.desk() as desk:
        pid = household.start(step_s=0.2)
        desk.hand_over(household.task(1))
        _until(household.traced)
    _until(lambda: "trained 1" in household.traced())
    with household.desk() as desk:
        started = time.monotonic()
        desk.hand_over(household.task(1))
        assert desk.reply().update is not None
        assert time.monotonic() - started < 1.5
    os.kill(pid, signal.SIGTERM)
    household.ended(pid)
    assert household.traced().count("trained 1") == 1


def test_a_second_runner_is_refused(household: Any) -> None:
    """Two would train the same round twice; the first goes on."""
    with household.desk() as desk:
        household.start()
        desk.hand_over(household.task(1))
        desk.reply()
        assert household.ended(household.start()) == 6
        desk.hand_over(household.task(2))
        assert desk.reply().update is not None


def _until(condition: Any, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
