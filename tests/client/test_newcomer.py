"""Who was approved a moment ago asks again; everybody else is told at once."""

from datetime import UTC, datetime, timedelta

import pytest

from stillroom.client.newcomer import PATIENCE_S, YOUNG, may_be_known_soon

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("status", "age", "waited", "again"),
    [
        (412, SECOND, 0.0, True),
        (401, SECOND, 0.0, True),
        (412, -30 * SECOND, 1.0, True),  # this machine's clock is behind
        (412, SECOND, PATIENCE_S, False),
        (412, YOUNG, 0.0, False),
        (401, timedelta(days=19), 0.0, False),
        (403, SECOND, 0.0, False),
        (500, SECOND, 0.0, False),
    ],
)
def test_when_to_ask_again(status: int, age: timedelta, waited: float, again: bool) -> None:
    """Only "I do not know you", only soon after the approval, and only for a few seconds."""
    assert may_be_known_soon(status, NOW - age, NOW, waited) is again
