"""Who is there, and with what: every site that has consented is asked how many cases it has."""

from collections.abc import Mapping

from stillroom.common.messages import INVENTORY, Task
from stillroom.server.asking import Call
from stillroom.server.desk import Desk
from stillroom.server.rounds.admission import admit


def take_inventory(desk: Desk) -> None:
    """Ask everybody, and take the step to the first wave.

    Raises:
        ConfigError: STR-104, a stage could not run with anybody who answered.
    """
    sites = desk.exchange.sites()
    standings = desk.standings(sites)
    task = Task(desk.prepared.digest)
    calls = [Call(INVENTORY, site, task) for site in sites if site not in desk.state.left]
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
