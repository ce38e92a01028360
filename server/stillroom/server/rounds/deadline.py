"""How long a round is held open, and for whom. Pure: times are passed in.

A round needs ``min_sites`` usable answers (or all, where fewer were asked). It closes

- when everybody who is there has answered;
- when enough usable answers are there and the others have had the grace period;
- at its deadline;
- at once, when so many have failed that enough can no longer come.

The deadline of a stage's first round is the study's. Later ones know how long the slowest site
took, so that a site that hangs costs minutes and not the hour that a first round may need. While
too few have answered, that shorter deadline does not count: closing the round would end the study
for good, and whoever is missing may be restarting.
"""

from collections.abc import Collection, Iterable, Mapping

from stillroom.common.study import Quorum

SLACK = 3.0
"""A round may take this many times what the slowest site has needed so far."""
LEAST_S = 60.0
"""No deadline from observation is shorter."""
ASK_AGAIN_S = 60.0
"""An unanswered question is put again after this long, then after twice as long, and so on."""


def deadline_s(quorum: Quorum, slowest: float | None) -> float:
    """Seconds after which a round closes with what it has.

    Args:
        quorum: The study's.
        slowest: Seconds of the slowest usable answer of this stage so far; None in its first round.
    """
    if slowest is None:
        return quorum.deadline_s
    return min(quorum.deadline_s, max(LEAST_S, SLACK * slowest))


def ask_again_s(times: int) -> float:
    """Seconds from the ``times``-th putting of a question (1-based) to the next.

    A message can be lost after it was marked as delivered, and nobody would know. Asking twice is
    harmless: a site answers the same question from what it kept.
    """
    return float(ASK_AGAIN_S * 2 ** (min(times, 10) - 1))


def needed(quorum: Quorum, asked: int) -> int:
    """Usable answers that make a round count: no more than were asked, and never none."""
    return max(1, min(quorum.min_sites, asked))


class Gathering:
    """Who has answered in a round that several stages share, and who is still awaited.

    Args:
        asked: Stage -> sites asked.
        quorum: The study's.
        opened: Time of the opening, in seconds of any steady clock.
        slowest: Stage -> as for ``deadline_s``.
        absent: Sites that missed the last round and are not connected: they are asked when they
            come back, and as long as enough others are there nobody waits for them.
        along: (stage, site) of questions that are put beside these; nobody waits for their answers.
        limit_s: Wait for everybody, but no longer than this; nobody's failure ends it. For
            questions that no quorum depends on. None: the rules of a round.
    """

    def __init__(
        self,
        asked: Mapping[str, Iterable[str]],
        quorum: Quorum,
        *,
        opened: float,
        slowest: Mapping[str, float] | None = None,
        absent: Collection[str] = (),
        along: Collection[tuple[str, str]] = (),
        limit_s: float | None = None,
    ) -> None:
        self._opened, self._absent, self._along = opened, frozenset(absent), set(along)
        self._waiting = {stage: set(sites) for stage, sites in asked.items()}
        self._usable = dict.fromkeys(self._waiting, 0)
        self._enough_at: dict[str, float] = {}
        self._last_s = quorum.deadline_s if limit_s is None else limit_s
        if limit_s is None:
            self._grace_s = quorum.grace_s
            self._needed = {s: needed(quorum, len(sites)) for s, sites in self._waiting.items()}
            self._limit = {s: deadline_s(quorum, (slowest or {}).get(s)) for s in self._waiting}
        else:
            self._grace_s = limit_s
            self._needed = dict.fromkeys(self._waiting, 0)
            self._limit = dict.fromkeys(self._waiting, limit_s)
            self._enough_at = dict.fromkeys(self._waiting, opened)

    def settle(self, stage: str, site: str, *, usable: bool, now: float) -> None:
        """An answer is in; a second one of the same site changes nothing."""
        self._along.discard((stage, site))
        if site not in self._waiting.get(stage, ()):
            return
        self._waiting[stage].discard(site)
        self._usable[stage] += usable
        if self._usable[stage] >= self._needed[stage]:
            self._enough_at.setdefault(stage, now)

    def awaited(self, now: float) -> set[tuple[str, str]]:
        """(stage, site) of everybody whose answer would still count."""
        if self.hopeless:
            return set()
        held = {
            (stage, site)
            for stage, sites in self._waiting.items()
            if not self._closed(stage, now)
            for site in sites
        }
        return held | self._along if held else held

    @property
    def hopeless(self) -> bool:
        """Whether some stage cannot reach its quorum any more: then none of them goes on."""
        return any(
            self._usable[stage] + len(sites) < self._needed[stage]
            for stage, sites in self._waiting.items()
        )

    def _closed(self, stage: str, now: float) -> bool:
        waiting, enough = self._waiting[stage], self._enough_at.get(stage)
        if not waiting or now - self._opened >= self._last_s:
            return True
        if enough is None:
            return False
        if now - self._opened >= self._limit[stage] or now - enough >= self._grace_s:
            return True
        return waiting <= self._absent
