"""Whether a run counted every round, and every hospital in it, exactly once. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def miscounted(
    events: Iterable[Mapping[str, Any]], due: Mapping[str, int], sites: Iterable[str]
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """What is wrong with what a run's events say was counted; both empty when nothing is.

    Args:
        events: Of the run, of any kind; those named ``round.closed`` count.
        due: Stage -> how many rounds it has, numbered from 1.
        sites: Every hospital that must be in every round.

    Returns:
        Round -> how often it was closed, where that is not once or the round is not due; and
        round -> who was admitted, where that is not each of ``sites`` once.
    """
    closed = [event for event in events if event["event"] == "round.closed"]
    times = Counter(f"{event['stage']}/{event['round']}" for event in closed)
    wanted = {f"{stage}/{number}" for stage, last in due.items() for number in range(1, last + 1)}
    wrong = {key: times[key] for key in wanted | times.keys() if times[key] != (key in wanted)}
    names = sorted(sites)
    other = {
        f"{event['stage']}/{event['round']}": list(event["admitted"])
        for event in closed
        if sorted(event["admitted"]) != names
    }
    return dict(sorted(wrong.items())), other
