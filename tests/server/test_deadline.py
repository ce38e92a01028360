"""How long a round is held open, and for whom."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.study import Quorum
from stillroom.server.rounds.deadline import Gathering, ask_again_s, deadline_s, needed
from stillroom.server.rounds.turns import Turns


def gathering(min_sites: int = 2, **more: object) -> Gathering:
    quorum = Quorum(min_sites=min_sites, deadline_s=1000, grace_s=100)
    asked = {"s": ["a", "b", "c"]}
    return Gathering(asked, quorum, opened=10.0, **more)  # type: ignore[arg-type]


def who(open_round: Gathering, now: float) -> str:
    return "".join(sorted(site for _, site in open_round.awaited(now)))


def test_everybody_answers() -> None:
    """Nobody is awaited once all are in."""
    one = gathering()
    for site in "abc":
        assert site in who(one, 20)
        one.settle("s", site, usable=True, now=20)
    assert who(one, 20) == ""


def test_grace() -> None:
    """It begins with the answer that makes the quorum, and ends the round for the rest."""
    one = gathering()
    one.settle("s", "a", usable=True, now=500)
    assert who(one, 700) == "bc"
    one.settle("s", "b", usable=True, now=700)
    assert who(one, 799) == "c"
    assert who(one, 800) == ""


def test_deadline() -> None:
    """Without a quorum the round is held open to its deadline, and no longer."""
    one = gathering()
    one.settle("s", "a", usable=True, now=20)
    assert who(one, 1009) == "bc"
    assert who(one, 1010) == ""
    assert not one.hopeless


def test_the_shorter_deadline_needs_a_quorum() -> None:
    """A site that hangs costs three times the slowest; one that is needed is waited for."""
    one = gathering(slowest={"s": 30.0})
    one.settle("s", "a", usable=True, now=20)
    assert who(one, 500) == "bc"
    one.settle("s", "b", usable=True, now=500)
    assert who(one, 500) == ""

    other = gathering(slowest={"s": 30.0})
    other.settle("s", "a", usable=True, now=20)
    other.settle("s", "b", usable=True, now=20)
    assert who(other, 99) == "c"
    assert who(other, 100) == ""


def test_hopeless() -> None:
    """Two of three have failed, two are needed: nobody waits for the third, in no stage."""
    quorum = Quorum(min_sites=2, deadline_s=1000, grace_s=100)
    one = Gathering({"s": ["a", "b", "c"], "t": ["d"]}, quorum, opened=0.0)
    one.settle("s", "a", usable=False, now=1)
    assert who(one, 1) == "bcd"
    one.settle("s", "b", usable=False, now=1)
    assert one.hopeless
    assert who(one, 1) == ""


def test_a_second_answer_changes_nothing() -> None:
    """Neither for the quorum nor for the count of failures."""
    one = gathering()
    one.settle("s", "a", usable=True, now=20)
    one.settle("s", "a", usable=True, now=21)
    assert who(one, 500) == "bc"


def test_absent_sites_hold_nobody_up() -> None:
    """They are awaited while somebody else is, and needed while there are too few."""
    one = gathering(absent=["c"])
    one.settle("s", "a", usable=True, now=20)
    assert who(one, 21) == "bc"
    one.settle("s", "b", usable=True, now=22)
    assert who(one, 22) == ""

    short = gathering(min_sites=3, absent=["c"])
    short.settle("s", "a", usable=True, now=20)
    short.settle("s", "b", usable=True, now=20)
    assert who(short, 21) == "c"


def test_a_limit_instead_of_a_quorum() -> None:
    """Everybody is waited for, nobody's failure ends it."""
    one = gathering(limit_s=50.0)
    one.settle("s", "a", usable=False, now=11)
    one.settle("s", "b", usable=False, now=11)
    assert who(one, 59) == "c"
    assert who(one, 60) == ""


@pytest.mark.parametrize(
    ("slowest", "expected"), [(None, 1000), (1.0, 60), (100.0, 300), (900.0, 1000)]
)
def test_deadlines_from_observation(slowest: float | None, expected: float) -> None:
    """Three times the slowest, at least a minute, at most the study's."""
    assert deadline_s(Quorum(deadline_s=1000), slowest) == expected


def test_asking_again() -> None:
    """After one minute, two, four; never without end in memory or below a minute."""
    assert [ask_again_s(times) for times in (1, 2, 3)] == [60, 120, 240]
    assert ask_again_s(10**6) == ask_again_s(10)


@given(st.integers(1, 5), st.integers(0, 6))
def test_a_quorum_never_asks_for_more_than_there_are(min_sites: int, asked: int) -> None:
    """And never for none."""
    assert 1 <= needed(Quorum(min_sites=min_sites), asked) <= max(1, min(min_sites, asked))


EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 400)), max_size=8)


@given(st.integers(1, 4), EVENTS, st.sets(st.sampled_from("abc")))
def test_every_round_closes(
    min_sites: int, events: list[tuple[str, bool, float]], absent: set[str]
) -> None:
    """Whatever comes, in whatever order: at the deadline at the latest, and it stays closed."""
    one, now, closed = gathering(min_sites, absent=absent), 10.0, False
    for site, usable, pause in events:
        now += pause
        closed = closed or not one.awaited(now)
        assert not (closed and one.awaited(now))
        one.settle("s", site, usable=usable, now=now)
    assert one.awaited(1010.0) == set()


@given(st.permutations("abcd"), st.sets(st.sampled_from("abcd")))
def test_turns(order: list[str], silent: set[str]) -> None:
    """Whoever was faster: used in the order of names, each once, as soon as its turn is certain."""
    turns: Turns[str] = Turns("dcba")
    used: list[str] = []
    here: set[str] = set()
    for name in order:
        if name in silent:
            continue
        here.add(name)
        used += [n for n, value in turns.put(name, name.upper()) if value == n.upper()]
        assert used == list(itertools.takewhile(lambda n: n in here, "abcd"))
    used += [name for name, _ in turns.rest()]
    assert used == sorted(here)


def test_nobody_waits_for_what_is_asked_along() -> None:
    """It is awaited while a round is open for others, and holds none open."""
    one = gathering(along=[("", "n"), ("", "m")])
    one.settle("", "m", usable=False, now=11)
    assert who(one, 20) == "abcn"
    for site in "abc":
        one.settle("s", site, usable=True, now=20)
    assert who(one, 20) == ""
