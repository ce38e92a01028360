"""ClientApp: what a site does for each kind of message. One short function each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from stillroom.client.recipes.registry import RECIPES, RecipeContext, RoundResult, inventory
from stillroom.client.site import Site
from stillroom.common.errors import ResourceError
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply, pack_reply, read_task
from stillroom.common.metrics import check_metrics, suppress_small

SITE_CONFIG = "site-config"
"""Key of the node configuration that holds the path of site.toml; set by this site alone."""

Work = Callable[[RecipeContext], RoundResult]

app = ClientApp()


@app.query(INVENTORY)
def count_cases(message: Message, context: Context) -> Message:
    """How many cases of which label this site has, after intake of anything new."""
    site = _site(context)
    site.accept(INVENTORY, read_task(message))
    site.take_in()
    result = _leaving(site, RoundResult(None, {}, inventory(site.store(), site.study)))
    # Never from what was answered before: it is asked to see what is there now.
    return Message(pack_reply(Reply(metrics=result.metrics)), reply_to=message)


@app.train(ROUND)
def train(message: Message, context: Context) -> Message:
    """Learn for one round from the model named."""
    return _answer(
        _site(context), ROUND, message, lambda order: RECIPES[order.stage.recipe].run(order)
    )


@app.train(LABEL)
def label(message: Message, context: Context) -> Message:
    """Apply the teachers named to local scans; only counts go back."""

    def work(order: RecipeContext) -> RoundResult:
        return replace(RECIPES[order.stage.recipe].run(order), weights=None, samples={})

    return _answer(_site(context), LABEL, message, work)


@app.evaluate(STAGE)
def evaluate(message: Message, context: Context) -> Message:
    """Score the model named on local cases; per-case results stay in this site's state."""
    site = _site(context)

    def work(order: RecipeContext) -> RoundResult:
        recipe = RECIPES[order.stage.recipe]
        return recipe.evaluate(order, site.predictions_dir(order.stage.name))

    return _answer(site, STAGE, message, work)


def _site(context: Context) -> Site:
    return Site.open(Path(str(context.node_config[SITE_CONFIG])))


def _answer(site: Site, kind: str, message: Message, work: Work) -> Message:
    """The answer to a task: kept since it was first given, or worked out, kept and given."""
    task = read_task(message)
    # 1. Only what the study holds and this site consented to, whether it was done before or not.
    site.accept(kind, task)
    kept = site.answers.find(kind, task)
    if kept is None:
        # 2. The work, and the last look at its numbers.
        order = site.order(kind, task)
        result = _leaving(site, _stoppable(site, lambda: work(order)))
        # 3. Committed: the same task is answered equally from here on, whatever dies.
        kept = site.answers.keep(kind, task, result, order.memory.saved)
    site.agreement.require()
    return Message(pack_reply(kept), reply_to=message)


def _stoppable(site: Site, work: Callable[[], RoundResult]) -> RoundResult:
    """Work that ``should_stop`` may end; a withdrawn consent or a pause is then the reason told."""
    site.paused = False
    try:
        return work()
    except ResourceError:
        site.say_why()
        raise


def _leaving(site: Site, result: RoundResult) -> RoundResult:
    """A result with what may leave of its numbers: consent, whitelist, then small counts."""
    site.agreement.require()
    check_metrics(result.metrics, site.study)
    metrics = suppress_small(result.metrics, site.study.study.min_cohort)
    return replace(result, metrics=metrics)
