"""Off-hours and rates."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stillroom.client.pacs.hours import Pace, Window
from stillroom.client.pacs.section import PacsSection


@pytest.mark.parametrize(
    ("hours", "at", "is_open"),
    [
        ("20:00-06:00", "20:00", True), ("20:00-06:00", "05:59", True), ("20:00-06:00", "06:00", False),
        ("20:00-06:00", "19:59", False), ("12:00-13:30", "13:29", True), ("12:00-13:30", "11:59", False),
        ("0:00-06:00", "00:00", True),
    ],
)  # fmt: skip
def test_a_window_may_span_midnight(hours: str, at: str, *, is_open: bool) -> None:
    """Its first minute belongs to it, its last does not."""
    hour, minute = map(int, at.split(":"))

    assert Window.parse(hours).is_open(datetime(2026, 1, 1, hour, minute)) is is_open  # noqa: DTZ001


@pytest.mark.parametrize(
    "hours", ["", "20-06", "20:00", "24:00-06:00", "20:00-20:00", "a:00-b:00", "2:0-3:00"]
)
def test_hours_that_make_no_sense_name_their_key(hours: str) -> None:
    """site.toml is refused rather than a window guessed."""
    with pytest.raises(ValidationError) as caught:
        PacsSection.model_validate(
            {"web": {"url": "http://pacs.example/x"}, "folder": "p", "hours": hours}
        )
    assert caught.value.errors()[0]["loc"] == ("hours",)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=50), st.floats(1, 1e6))
def test_a_pace_never_exceeds_its_rate(sizes: list[int], rate: float) -> None:
    """By whatever sizes bytes come: at no moment were more spent than the rate allows."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    pace = Pace(rate, clock=lambda: clock[0], sleep=sleep)
    for size in sizes:
        pace.spend(size)

    assert sum(sizes) / rate == pytest.approx(clock[0])
