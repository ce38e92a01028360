"""Who waited for whom: what the slowest site of every round cost the others. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Wait:
    """One site's part in the waiting.

    Attributes:
        site: The slowest of its rounds.
        rounds: In how many it was that.
        longer_s: How much earlier those rounds could have closed without it: from the second
            slowest answer to its own.
        others_s: What all other sites of those rounds waited for it, added up.
    """

    site: str
    rounds: int
    longer_s: float
    others_s: float


def waits(records: Iterable[Mapping[str, Any]]) -> list[Wait]:
    """Sites that others waited for, the costliest first.

    Args:
        records: Of committed rounds, as ``rounds.outcome.round_record`` makes them; rounds with
            one site count for nobody.
    """
    found: dict[str, Wait] = {}
    for record in records:
        took = {
            site: float(entry.get("seconds") or 0.0)
            for site, entry in (record.get("sites") or {}).items()
        }
        if len(took) < 2:
            continue
        *_, second, longest = sorted(took.values())
        site = max(name for name, value in took.items() if value == longest)
        before = found.get(site, Wait(site, 0, 0.0, 0.0))
        found[site] = Wait(
            site,
            before.rounds + 1,
            before.longer_s + longest - second,
            before.others_s + sum(longest - value for value in took.values()),
        )
    return sorted(found.values(), key=lambda wait: (-wait.others_s, wait.site))
