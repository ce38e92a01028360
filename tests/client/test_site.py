"""What a site does for a server: exactly what its study says; and what it says when it fails."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from stillroom.client.app import SITE_CONFIG, app
from stillroom.client.gate import Request, decide, refuse
from stillroom.client.outbox import Outbox
from stillroom.client.recipes import registry
from stillroom.client.recipes.registry import RoundResult
from stillroom.client.runner import answer
from stillroom.client.site import Site
from stillroom.common.errors import DataError, StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    MESSAGE_TYPES,
    ROUND,
    STAGE,
    ModelRef,
    Task,
    pack_task,
    read_reply,
)
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise, weights_digest, write_weights

pytestmark = pytest.mark.usefixtures("inside_a_task")

WEIGHTS = {"trunk.w": np.ones((2, 3), np.float32), "head.w": np.ones(2, np.float32)}
MANIFEST = Manifest(
    tensors=tuple(
        TensorSpec(name=name, shape=value.shape, dtype="float32", group=name[:-2])
        for name, value in WEIGHTS.items()
    )
)
STUDY = Study.parse(
    {
        "study": {"name": "site", "min_cohort": 3, "max_update_norm": 100.0},
        "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
        "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
        "model": {
            "teacher": {"arch": "dynunet", "channels": [4, 8]},
            "student": {"arch": "light-swin", "feature_size": 12},
        },
        "stage": [
            {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 2},
            {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
            {"name": "student", "recipe": "distil"},
        ],
    }
)


@pytest.fixture
def site_toml(tmp_path: Path) -> Path:
    """A site with an empty data folder and a prepared study."""
    study = tmp_path / "study"
    stage = PreparedStage(
        initial_sha256=write_weights(study / "weights", WEIGHTS), manifest=MANIFEST
    )
    prepared = PreparedStudy(study=STUDY, stages={"teach": stage, "student": stage})
    (study / "study.json").write_text(prepared.model_dump_json())
    (tmp_path / "scans").mkdir()
    path = tmp_path / "site.toml"
    path.write_text(
        'site = "north"\nserver = "127.0.0.1:9"\ndata = ["scans"]\nstate = "state"\n'
        'study = "study"\ndevice = "cpu"\nunsigned_trial = true\n'
        '[tls]\nca = "ca.pem"\ncertificate = "site.pem"\nprivate_key = "site.key"\n'
    )
    return path


@pytest.fixture
def site(site_toml: Path) -> Site:
    """The same, opened; the courier has brought what it was asked for."""
    site = Site.open(site_toml)
    site.exchange.prepare()
    for weights in (WEIGHTS, NAN, HUGE, OTHER):
        write_weights(site.exchange.models, weights)
    return site


NAN = {**WEIGHTS, "head.w": np.array([1, np.nan], np.float32)}
HUGE = {name: value * 1e9 for name, value in WEIGHTS.items()}


def ref(weights: Any) -> ModelRef:
    return ModelRef(weights_digest(weights), len(serialise(weights)))


OTHER = {"trunk.v": WEIGHTS["trunk.w"], "head.w": WEIGHTS["head.w"]}
GOOD = ref(WEIGHTS)


def good(site: Site) -> Task:
    return Task(site.prepared.digest, "teach", 1, {"teach": GOOD})


TABLE: dict[str, tuple[Callable[[Task], Task], str]] = {
    "another study": (lambda t: replace(t, study="0" * 64), "STR-205"),
    "no study": (lambda t: replace(t, study=""), "STR-205"),
    "unknown stage": (lambda t: replace(t, stage="steal"), "STR-205"),
    "round 0": (lambda t: replace(t, round=0), "STR-205"),
    "a round too many": (lambda t: replace(t, round=3), "STR-205"),
    "negative round": (lambda t: replace(t, round=-1), "STR-205"),
    "a second model": (lambda t: replace(t, models={**t.models, "student": GOOD}), "STR-205"),
    "no teachers": (lambda t: replace(t, stage="label", models={}), "STR-205"),
    "other teachers": (lambda t: replace(t, stage="label", models={"student": GOOD}), "STR-205"),
    "a model for a stage without": (
        lambda t: replace(t, stage="label", models={"teach": GOOD, "label": GOOD}),
        "STR-205",
    ),
    "no model": (lambda t: replace(t, models={}), "STR-205"),
    "another size": (
        lambda t: replace(t, models={"teach": replace(GOOD, nbytes=GOOD.nbytes + 1)}),
        "STR-301",
    ),
    "a model that did not come": (
        lambda t: replace(t, models={"teach": replace(GOOD, sha256="0" * 64)}),
        "STR-311",
    ),
    "other tensors of that size": (lambda t: replace(t, models={"teach": ref(OTHER)}), "STR-204"),
    "nan": (lambda t: replace(t, models={"teach": ref(NAN)}), "STR-303"),
    "huge": (lambda t: replace(t, models={"teach": ref(HUGE)}), "STR-303"),
    "teacher with nan": (
        lambda t: replace(t, stage="label", models={"teach": ref(NAN)}),
        "STR-303",
    ),
}


def test_the_studys_own_tasks_are_accepted(site: Site) -> None:
    """An inventory, every round of a stage, and labelling with its teachers."""
    task = good(site)
    for kind, accepted in (
        (INVENTORY, Task(task.study)),
        (ROUND, task),
        (ROUND, replace(task, round=2)),
        (ROUND, replace(task, stage="student", models={"student": GOOD})),
        (STAGE, replace(task, stage="student", models={"student": GOOD})),
        (LABEL, replace(task, stage="label")),
    ):
        site.accept(kind, accepted)


def test_an_order_holds_the_models_of_its_task(site: Site) -> None:
    """The stage's own to write into, and its teachers' with the digests their labels will name."""
    trained = site.order(ROUND, good(site))
    labelled = site.order(LABEL, replace(good(site), stage="label"))

    assert trained.weights is not None
    np.testing.assert_array_equal(trained.weights["trunk.w"], WEIGHTS["trunk.w"])
    trained.weights["trunk.w"][:] = 7
    teacher, sha256 = labelled.teachers["teach"]
    assert (trained.teachers, labelled.weights, sha256) == ({}, None, GOOD.sha256)
    np.testing.assert_array_equal(teacher["trunk.w"], WEIGHTS["trunk.w"])


@pytest.mark.parametrize("name", TABLE)
def test_everything_else_is_refused(site: Site, name: str) -> None:
    """A server cannot make a site train, label or load anything its study does not hold."""
    change, code = TABLE[name]
    task = change(good(site))

    with pytest.raises(StillroomError) as caught:
        site.order(LABEL if task.stage == "label" else ROUND, task)
    assert caught.value.code == code
    assert caught.value.fix


@pytest.mark.parametrize(
    ("kind", "stage"), [(LABEL, "teach"), (ROUND, "label"), (INVENTORY, "teach")]
)
def test_a_stage_is_used_for_its_own_kind_of_work(site: Site, kind: str, stage: str) -> None:
    """A right task under another kind of message is a wrong one."""
    with pytest.raises(StillroomError) as caught:
        site.accept(kind, replace(good(site), stage=stage))
    assert caught.value.code == "STR-205"


def ask(site_toml: Path, kind: str, task: Task, by: ClientApp = app) -> Message:
    """What the runner answers to one message."""
    context = Context(1, 1, {SITE_CONFIG: str(site_toml)}, RecordDict(), {})
    message = Message(pack_task(task), 1, MESSAGE_TYPES.get(kind, kind))
    return answer(by, message, context)


def said(reply: Message) -> str:
    """Everything in a reply that could be read elsewhere."""
    if reply.has_error():
        return f"{reply.error.code} {reply.error.reason}"
    return json.dumps(
        {name: [*record] for name, record in reply.content.items()}
        | {"values": [str(r) for r in reply.content.metric_records.values()]}
    )


def test_inventory_of_an_empty_folder(site: Site, site_toml: Path) -> None:
    """Nothing to count is an answer, not a failure."""
    reply = read_reply(ask(site_toml, INVENTORY, Task(site.prepared.digest)))

    assert set(reply.metrics.values()) == {0}
    assert reply.update is None


@pytest.mark.parametrize("kind", [ROUND, LABEL, STAGE, INVENTORY])
def test_another_study_is_refused_whatever_is_asked(site_toml: Path, kind: str) -> None:
    """The reply is the code and nothing else."""
    reply = ask(site_toml, kind, Task("0" * 64, "teach", 1, {"teach": GOOD}))

    assert said(reply) == "1 STR-205"


@pytest.mark.parametrize("kind", ["train", "train.shell", "query.files", "evaluate"])
def test_messages_the_app_does_not_know(site: Site, site_toml: Path, kind: str) -> None:
    """An unknown kind of work is not done, and does not end the runner."""
    assert said(ask(site_toml, kind, good(site))) == "1 STR-505"


def planted(monkeypatch: pytest.MonkeyPatch, result: RoundResult | Exception) -> None:
    class Planted:
        def run(self, _context: Any) -> RoundResult:
            if isinstance(result, Exception):
                raise result
            return result

    monkeypatch.setitem(registry.RECIPES, "teach", Planted())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("no such file: /data/DOE^JANE/1.dcm"), "STR-505"),
        (MemoryError("DOE^JANE"), "STR-505"),
        (DataError("Scan DOE^JANE is torn.", fix="Look at DOE^JANE.", code="STR-418"), "STR-418"),
        (KeyError("DOE^JANE"), "STR-505"),
    ],
)
def test_the_text_of_an_exception_stays_here(
    site: Site,
    site_toml: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str,
) -> None:
    """It may quote a tag or name a file: the site's own log gets it, the server a code."""
    planted(monkeypatch, error)
    caplog.set_level(logging.WARNING, logger="stillroom")
    reply = ask(site_toml, ROUND, good(site))

    assert said(reply) == f"1 {code}"
    assert "DOE" not in str(reply.error)


LEAKS = {
    "name of a metric": RoundResult(WEIGHTS, {"trunk": 1}, {"DOE^JANE": 1.0}),
    "value of a metric": RoundResult(WEIGHTS, {"trunk": 1}, {"train.loss": "DOE^JANE"}),  # type: ignore[dict-item]
    "name of a tensor": RoundResult(
        {**WEIGHTS, "DOE^JANE": np.ones(1, np.float32)}, {"trunk": 1}, {}
    ),
    "name of a group": RoundResult(WEIGHTS, {"DOE^JANE": 1}, {}),
}
LEAKS_AT_GATE = {"name of a tensor": "STR-301", "name of a group": "STR-304"}
"""The code for those that the runner leaves to the gate."""


def through_the_gate(site: Site, reply: Message) -> str:
    """What becomes of the runner's reply on its way out: the code of the gate's refusal, or none."""
    reply.metadata.__dict__["_message_id"] = ""  # Flower frames a message before it has a name
    objects = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    request = Message(RecordDict(), 1, MESSAGE_TYPES[ROUND])
    asked = Request(request, ROUND, "teach", 1, good(site).models)
    outbox = Outbox.below(site.config.courier_state, site.exchange, site.prepared)
    given = reply.metadata
    for field, mine in (("run_id", given.run_id), ("src_node_id", given.dst_node_id)):
        request.metadata.__dict__["_" + field] = mine
    request.metadata.__dict__["_message_id"] = given.reply_to_message_id
    try:
        decide(asked, reply.object_id, objects.__getitem__, outbox)
    except StillroomError as error:
        left = refuse(asked, error.code, site.prepared).outgoing
        assert not [part for part in left.objects.values() if b"DOE" in part]
        return error.code
    return ""


@pytest.mark.parametrize("name", LEAKS)
def test_a_recipe_that_leaks_is_stopped(
    site: Site, site_toml: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Even our own recipe gets nothing out but the manifest's tensors and whitelisted numbers.

    The runner looks at numbers, the gate at everything; what the first lets by stops at the second.
    """
    planted(monkeypatch, LEAKS[name])
    reply = ask(site_toml, ROUND, good(site))

    if reply.has_error():
        assert "DOE" not in said(reply)
        assert str(reply.error.reason).startswith("STR-30")
    else:
        assert through_the_gate(site, reply) == LEAKS_AT_GATE[name]


def test_what_does_not_leak_passes_the_gate(
    site: Site, site_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the test above is void."""
    planted(monkeypatch, RoundResult(WEIGHTS, {"trunk": 1, "head": 1}, {"train.loss": 0.5}))

    assert through_the_gate(site, ask(site_toml, ROUND, good(site))) == ""


def test_small_counts_do_not_leave(
    site: Site, site_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the study's cohort a count leaves as 0; scores do not change."""
    numbers = {"train.cases": 2, "train.loss": 0.5}
    planted(monkeypatch, RoundResult(WEIGHTS, {"trunk": 2, "head": 2}, numbers))

    reply = read_reply(ask(site_toml, ROUND, good(site)))

    assert reply.metrics == {"train.cases": 0, "train.loss": 0.5}
