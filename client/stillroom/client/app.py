"""ClientApp: what a site does for each kind of message. One short function each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from stillroom.client.recipes import evaluation
from stillroom.client.recipes.registry import RECIPES, RoundResult, inventory
from stillroom.client.site import Site
from stillroom.common.errors import ResourceError
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply, pack_reply, read_task
from stillroom.common.metrics import check_metrics, suppress_small

SITE_CONFIG = "site-config"
"""Key of the node configuration that holds the path of site.toml; set by this site alone."""

app = ClientApp()


@app.query(INVENTORY)
def count_cases(message: Message, context: Context) -> Message:
    """How many cases of which label this site has, after intake of anything new."""
    site = _site(context)
    site.accept(INVENTORY, read_task(message))
    site.take_in()
    return _reply(site, message, RoundResult(None, {}, inventory(site.store(), site.study)))


@app.train(ROUND)
def train(message: Message, context: Context) -> Message:
    """Learn for one round from the weights sent."""
    site = _site(context)
    order = site.order(ROUND, read_task(message))
    result = _stoppable(site, lambda: RECIPES[order.stage.recipe].run(order))
    return _reply(site, message, result)


@app.train(LABEL)
def label(message: Message, context: Context) -> Message:
    """Apply the teachers sent to local scans; only counts go back."""
    site = _site(context)
    order = site.order(LABEL, read_task(message))
    result = _stoppable(site, lambda: RECIPES[order.stage.recipe].run(order))
    return _reply(site, message, replace(result, weights=None, samples={}))


@app.evaluate(STAGE)
def evaluate(message: Message, context: Context) -> Message:
    """Score the weights sent on local cases; per-case results stay in this site's state."""
    site = _site(context)
    order = site.order(STAGE, read_task(message))
    keep = site.predictions_dir(order.stage.name)
    result = _stoppable(site, lambda: evaluation.evaluate(order, keep_predictions=keep))
    return _reply(site, message, result)


def _site(context: Context) -> Site:
    return Site.open(Path(str(context.node_config[SITE_CONFIG])))


def _stoppable(site: Site, work: Callable[[], RoundResult]) -> RoundResult:
    """Work that ``should_stop`` may end; a withdrawn consent is then the reason that is told."""
    try:
        return work()
    except ResourceError:
        site.agreement.require()
        raise


def _reply(site: Site, message: Message, result: RoundResult) -> Message:
    """The last look before numbers leave the runner: consent, whitelist, then small counts."""
    site.agreement.require()
    check_metrics(result.metrics, site.study)
    metrics = suppress_small(result.metrics, site.study.study.min_cohort)
    reply = Reply(weights=result.weights, samples=result.samples, metrics=metrics)
    return Message(pack_reply(reply), reply_to=message)
