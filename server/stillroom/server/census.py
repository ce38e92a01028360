"""Who is there, and with what: every site that has consented is asked how many cases it has.

Whoever misses the question is asked again: before every wave, where it takes part in that wave; and
along with every round, where it takes part from the next one on and no round waits for it.
"""

from collections.abc import Iterable, Mapping

from stillroom.common.messages import INVENTORY, Task
from stillroom.server.asking import Call
from stillroom.server.desk import Desk
from stillroom.server.rounds.admission import admit

WELCOME_S = 10.0
"""How long a wave waits for the inventories of sites that are here and had given none."""


def take_inventory(desk: Desk) -> None:
    """Ask everybody, and take the step to the first wave.

    Raises:
        ConfigError: STR-104, a stage could not run with anybody who answered.
    """
    sites = desk.exchange.sites()
    standings = desk.standings(sites)
    calls = inventory_calls(desk, (site for site in sites if site not in desk.state.left))
    inventories: dict[str, Mapping[str, float]] = {}
    quorum = desk.study.study.quorum
    outcomes = desk.ask(calls, limit_s=min(quorum.deadline_s, quorum.grace_s))
    for (_, site), outcome in sorted(outcomes.items()):
        if outcome.status == "admitted":
            inventories[site] = outcome.metrics
            if not outcome.metrics.get("inventory.cases"):
                desk.note(f"{site} has no usable case.")
        else:
            desk.note(f"{site} takes no part: {outcome.reason}.")
            desk.state = desk.state.stood(desk.state.standings, {site: outcome.reason})
        desk.event(
            "site.inventory",
            site=site,
            status=outcome.status,
            reason=outcome.reason,
            counts=dict(outcome.metrics),
        )
    # A label nobody owns is known now; it must not cost an hour of other stages first.
    for stage in desk.study.stage:
        admit(desk.study, stage, inventories, standings)
    desk.commit(desk.state.counted(inventories))


def welcome(desk: Desk) -> None:
    """Ask who is here by now and has given no inventory; who answers takes part in the next wave."""
    if desk.state.wave == 0:
        return  # everybody has just been asked
    newcomers = desk.newcomers()
    here = set(newcomers) & set(desk.exchange.sites()) if newcomers else set()
    if not here:
        return
    quorum = desk.study.study.quorum
    limit_s = min(quorum.deadline_s, quorum.grace_s, WELCOME_S)
    calls = inventory_calls(desk, sorted(here))
    outcomes = desk.ask(calls, limit_s=limit_s)
    for call in calls:
        if outcomes[call.key].status != "late":
            desk.meet(call, outcomes[call.key])


def inventory_calls(desk: Desk, sites: Iterable[str]) -> list[Call]:
    """The question for an inventory, to each of ``sites``."""
    task = Task(desk.prepared.digest)
    return [Call(INVENTORY, site, task) for site in sites]
