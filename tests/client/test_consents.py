"""No consent, no work: before a task, at the next batch, and before an answer leaves."""

import math
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from stillroom.client import app as client_app
from stillroom.client import consent_post
from stillroom.client.agreement import Agreement
from stillroom.client.cli import app as cli
from stillroom.client.config import SiteConfig
from stillroom.client.consent_post import ConsentPost
from stillroom.client.consent_text import SiteFacts, describe, digest_lines
from stillroom.client.consents import ConsentBook, give_consent, withdraw_consent
from stillroom.client.exchange import ExchangeFolder
from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.registry import RECIPES, RoundResult
from stillroom.client.site import Site
from stillroom.common.accounting import epsilons
from stillroom.common.consent import Consent, Withdrawal, give, parse_record
from stillroom.common.consortium import make_consortium
from stillroom.common.errors import ConfigError, ResourceError, StillroomError, TrustError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, ModelRef, Task
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.pki.files import load_signing_key, write_signing_key
from stillroom.common.pki.issue import make_ca
from stillroom.common.signed_study import sign_study
from stillroom.common.signing import new_signing_key
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights

GOLDEN = Path(__file__).parents[1] / "golden"
DEMO = Path(__file__).parents[2] / "deploy/stillroom/deploy/studies/demo.toml"


def toy(**section: Any) -> Study:
    """One teacher, pseudo-labels, a student."""
    return Study.parse(
        {
            "study": {"name": "toy", **section},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [16, 16, 16]},
            "label": {"ball": {"kind": "mask", "classes": ["ball"]}},
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 4, 4]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {
                    "name": "teach",
                    "recipe": "teach",
                    "label": "ball",
                    "rounds": 2,
                    "train": {"steps": 50, "batch_size": 1},
                },
                {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
                {"name": "student", "recipe": "distil"},
            ],
        }
    )


@dataclass(frozen=True)
class World:
    """One enrolled hospital with a signed study in ``folder``."""

    folder: Path
    config: Path

    @property
    def digest(self) -> str:
        """Of the study."""
        return PreparedStudy.load(self.folder / "study").digest

    @property
    def book(self) -> ConsentBook:
        """The site's consents."""
        return ConsentBook.below(self.folder / "exchange")

    def sign(self) -> None:
        """The operator signs the study."""
        sign_study(self.folder / "study", load_signing_key(self.folder / "operator.key"))

    def give(self, **more: Any) -> Consent:
        """The hospital consents."""
        key = load_signing_key(self.folder / "signing.key")
        return give_consent(self.book, key, study=self.digest, site="harbour", **more)

    def withdraw(self) -> Withdrawal:
        """The hospital takes it back."""
        key = load_signing_key(self.folder / "signing.key")
        return withdraw_consent(self.book, key, study=self.digest, site="harbour")

    def site(self) -> Site:
        """As the runner opens it, anew."""
        Site.open.cache_clear()
        return Site.open(self.config)

    def task(self, **changes: Any) -> Task:
        """Round 1 of the teacher, as a good server asks for it."""
        prepared = PreparedStudy.load(self.folder / "study")
        name = prepared.stages["teach"].initial_sha256
        source = self.folder / "study/weights" / f"{name}.safetensors"
        path = ExchangeFolder(self.folder / "exchange").prepare().model(name)
        path.write_bytes(source.read_bytes())  # as the courier brings it
        model = ModelRef(name, path.stat().st_size)
        return replace(Task(prepared.digest, "teach", 1, {"teach": model}), **changes)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Enrolled, study signed, nothing said yet."""
    return build(tmp_path, toy())


def build(folder: Path, study: Study) -> World:
    """Make a hospital that holds ``study``."""
    operator, now = new_signing_key(), datetime.now(UTC)
    ca, ca_key = make_ca("test", 2, now)
    write_signing_key(folder / "operator.key", operator)
    write_signing_key(folder / "signing.key", new_signing_key())
    (folder / "consortium.json").write_bytes(
        make_consortium("test", ca, ca_key, {"ada": operator.public_key()}, operator, now)
    )
    prepare_study(study, folder / "study")
    config = {
        "site": "harbour",
        "server": "fl.example.org:443",
        "data": ["data"],
        "state": "state",
        "study": "study",
        "device": "cpu",
        "tls": {"ca": "ca.pem", "certificate": "site.pem", "private_key": "site.key"},
    }
    (folder / "site.toml").write_text(tomli_w.dumps(config), "utf-8")
    world = World(folder, folder / "site.toml")
    world.sign()
    return world


def fill(site: Site) -> None:
    """Three labelled cases, so that the teacher can train."""
    store = site.store()
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:12, 4:12, 4:12] = 1
    for number in range(3):
        info = CaseInfo(
            id=f"case{number}",
            shape=(16, 16, 16),
            spacing_mm=(2.0, 2.0, 2.0),
            origin_mm=(0.0, 0.0, 0.0),
            masks=("ball",),
            points={},
        )
        store.write_case(info, mask.astype(np.int16) * 300 - 100, {"ball": mask})


def refused(work: Callable[[], Any]) -> str:
    """The code with which ``work`` is refused."""
    with pytest.raises(StillroomError) as caught:
        work()
    return caught.value.code


def test_nothing_runs_before_the_hospital_has_signed(world: World) -> None:
    """No consent: STR-208 for every kind of task; with it, all of them are taken."""
    site, task = world.site(), world.task()
    inventory = Task(task.study)
    assert refused(lambda: site.accept(INVENTORY, inventory)) == "STR-208"
    assert refused(lambda: site.order(ROUND, task)) == "STR-208"
    world.give()
    site.accept(INVENTORY, inventory)
    site.accept(STAGE, task)
    assert site.order(ROUND, task).round == 1
    world.withdraw()
    assert refused(lambda: site.accept(INVENTORY, inventory)) == "STR-208"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ROUND, {"study": "b" * 64}),
        (ROUND, {"stage": "other"}),
        (ROUND, {"stage": ""}),
        (ROUND, {"round": 3}),
        (ROUND, {"round": 0}),
        (LABEL, {}),
        (ROUND, {"stage": "label"}),
        (ROUND, {"models": {}}),
        (STAGE, {"stage": "label"}),
        (INVENTORY, {}),
    ],
)
def test_consent_covers_the_study_and_nothing_beside_it(
    world: World, kind: str, changes: dict[str, Any]
) -> None:
    """Other digest, stage, recipe, round or weights: STR-205, whatever was consented to."""
    world.give()
    site, task = world.site(), world.task(**changes)
    assert refused(lambda: site.accept(kind, task)) == "STR-205"


def test_a_consent_that_is_not_this_sites_is_none(world: World) -> None:
    """Expired, signed by another key, for another study, or damaged on disk."""
    site, inventory = world.site(), Task(world.digest)
    world.book.keep(give(new_signing_key(), study=world.digest, site="harbour", now=1))
    assert refused(lambda: site.accept(INVENTORY, inventory)) == "STR-208"
    key = load_signing_key(world.folder / "signing.key")
    world.book.keep(give(key, study=world.digest, site="harbour", now=1))
    assert refused(lambda: site.accept(INVENTORY, inventory)) == "STR-208"
    good = world.give()
    site.accept(INVENTORY, inventory)
    (world.book.folder / f"{world.digest}.json").write_bytes(b"{}")
    assert refused(lambda: site.accept(INVENTORY, inventory)) == "STR-208"
    assert list(world.book.all()) == []
    world.book.keep(good)
    site.accept(INVENTORY, inventory)


def test_withdrawing_stops_training_at_the_next_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a round: a few of its 50 steps are done, STR-208 is told, no reply is made."""
    site = world.site()
    world.give()
    fill(site)
    steps: list[float] = []

    def progress(share: float) -> None:
        steps.append(share)
        if len(steps) == 2:
            world.withdraw()

    order = replace(site.order(ROUND, world.task()), progress=progress)
    work = lambda: client_app._stoppable(site, lambda: RECIPES["teach"].run(order))  # noqa: E731
    assert refused(work) == "STR-208"
    assert len(steps) == 2


def test_withdrawing_during_the_last_batch_holds_the_answer_back(world: World) -> None:
    """The work is done, and still nothing is packed."""
    site = world.site()
    world.give()
    result = RoundResult(None, {}, {"inventory.cases": 3})
    world.withdraw()
    assert refused(lambda: client_app._leaving(site, result)) == "STR-208"


def test_another_stop_keeps_its_own_reason(world: World) -> None:
    """Only a withdrawn consent is told as one."""
    site = world.site()
    world.give()

    def stopped() -> RoundResult:
        raise ResourceError("x", fix="y", code="STR-502")

    assert refused(lambda: client_app._stoppable(site, stopped)) == "STR-502"


def test_an_enrolled_site_takes_no_unsigned_study(world: World) -> None:
    """Unsigned, or signed by somebody who is no operator; a missing description opens nothing."""
    (world.folder / "study/study.sig").unlink()
    assert refused(world.site) == "STR-209"
    sign_study(world.folder / "study", new_signing_key())
    assert refused(world.site) == "STR-209"
    world.sign()
    world.site()
    text = world.config.read_text("utf-8")
    world.config.write_text('consortium = "gone.json"\n' + text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        world.site()
    assert caught.value.code == "STR-101"


def test_a_study_ends_with_its_last_day(tmp_path: Path) -> None:
    """Consent or not."""
    world = build(tmp_path, toy(expires="2020-01-01"))
    world.give()
    assert refused(lambda: world.site().accept(INVENTORY, Task(world.digest))) == "STR-210"


def test_asking_costs_little(world: World) -> None:
    """Before every batch: under 5 ms even here, where a batch takes 50."""
    world.give()
    agreement = Agreement.open(SiteConfig.load(world.config))
    started = time.perf_counter()
    for _ in range(20):
        assert not agreement.should_stop()
    assert (time.perf_counter() - started) / 20 < 0.005


def test_the_command_line_gives_and_withdraws(world: World) -> None:
    """It shows the study, asks, signs exactly its digest, and says what happens next."""
    run, where = CliRunner(), ["--config", str(world.config)]
    shown = run.invoke(cli, ["consent", "show", *where])
    assert shown.exit_code == 0
    assert all(line in shown.output for line in digest_lines(world.digest))
    no = run.invoke(cli, ["consent", "give", *where], input="n\n")
    assert no.exit_code == 1
    assert world.book.latest(world.digest) is None
    yes = run.invoke(cli, ["consent", "give", *where, "--days", "9"], input="y\n")
    assert yes.exit_code == 0
    record = world.book.latest(world.digest)
    assert isinstance(record, Consent)
    assert record.expires_at - record.given_at == 9 * 86400
    back = run.invoke(cli, ["consent", "withdraw", *where, "--yes"])
    assert "stops at its next batch" in back.output
    assert isinstance(world.book.latest(world.digest), Withdrawal)
    history = (world.book.folder / f"{world.digest}.history").read_bytes().splitlines()
    assert [type(parse_record(line)) for line in history] == [Consent, Withdrawal]


def test_a_study_that_cannot_be_trusted_is_not_even_shown(world: World) -> None:
    """The command ends with the code."""
    (world.folder / "study/study.sig").unlink()
    for command in (["show"], ["give", "--yes"]):
        result = CliRunner().invoke(cli, ["consent", *command, "--config", str(world.config)])
        assert isinstance(result.exception, TrustError)
        assert result.exception.code == "STR-209"


def prepared_demo(folder: Path) -> PreparedStudy:
    """The demo's study with one tensor a stage: its text depends on no network library."""
    study = Study.load(DEMO)
    digest = write_weights(folder / "weights", {"w": np.zeros((1000, 500), np.float32)})
    spec = TensorSpec(name="w", shape=(1000, 500), dtype="float32", group="trunk")
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=(spec,)))
    names = [s.name for s in study.stage if s.recipe in {"teach", "distil"}]
    return PreparedStudy(study=study, stages=dict.fromkeys(names, stage))


def test_what_a_data_protection_officer_reads(tmp_path: Path) -> None:
    """The whole text of the demo's study, for a site that owns chambers."""
    counts = {
        "inventory.cases": 26,
        "inventory.unlabelled.cases": 16,
        "inventory.chambers.cases": 10,
    }
    facts = SiteFacts("north", "fl.example.org:443", "the TAVI consortium", "A. Operator", counts)
    text = describe(prepared_demo(tmp_path), facts)
    assert text == (GOLDEN / "consent-demo.txt").read_text("utf-8")
    assert max(map(len, text.splitlines())) <= 78


def test_the_text_follows_the_facts(tmp_path: Path) -> None:
    """A held-out site trains nothing; without a scan it says so; a site without a label is told."""
    prepared = prepared_demo(tmp_path)
    base = SiteFacts("summit", "s:1", "c", "o", None)
    held_out = describe(prepared, base)
    assert "keeps this hospital for scoring" in " ".join(held_out.split())
    assert "none: this hospital trains in no stage" in held_out
    assert "have not been listed yet" in " ".join(held_out.split())
    none = describe(prepared, replace(base, site="river", counts={"inventory.cases": 3}))
    assert "no scan here has chambers" in " ".join(none.split())


def with_options(prepared: PreparedStudy, **options: dict[str, Any]) -> PreparedStudy:
    """``prepared`` whose stages named by ``options`` have other options, epsilon included."""
    value = prepared.model_dump(mode="json")
    for name, option in options.items():
        value["stages"][name]["epsilon"] = option.pop("epsilon", None)
        next(s for s in value["study"]["stage"] if s["name"] == name).update(option)
    return PreparedStudy.model_validate(value)


def test_what_noise_promises_is_said_with_its_number(tmp_path: Path) -> None:
    """Which stages have it, what it amounts to together, and what it does not cover."""
    noise = {"clip_norm": 1.0, "noise_multiplier": 8.0, "delta": 1e-5}
    spent = epsilons(8.0, 1e-5, rounds=10)
    student = {
        "privacy": noise,
        "exchange": {"encoding": "int8-delta"},
        "epsilon": spent,
        "rounds": 10,
    }
    teacher = {"privacy": noise, "rounds": 1, "epsilon": spent[:1]}
    counts = {"inventory.cases": 26, "inventory.chambers.cases": 10}
    facts = SiteFacts("north", "s:1", "c", "o", counts)

    def text(**options: dict[str, Any]) -> str:
        shown = describe(with_options(prepared_demo(tmp_path), **options), facts)
        assert max(map(len, shown.splitlines())) <= 78
        return " ".join(shown.split())

    one = text(student=dict(student))
    two = text(student=dict(student), **{"teach-chambers": dict(teacher)})

    assert "noise is added in student, none in teach-chambers." in one
    last = f"{math.ceil(spent[-1] * 100) / 100:.2f}"
    assert f"{last} after the last of 10 rounds, with delta 1e-05" in one
    assert "does not cover the numbers under 2" in one
    assert "in one byte a number" in one
    assert "all of them together" not in one
    assert "noise is added in teach-chambers, student." in two
    assert f"all of them together: epsilon {spent[-1] + spent[0]:.2f}"[:-1] in two


class Server:
    """Answers posts as told, and remembers them."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers, self.heard = list(answers), list[bytes]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """The next answer."""
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.heard.append(request.content)
        return httpx.Response(answer)


def test_the_server_is_told_once_of_every_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped line and a failing server are tried again; a refusal is not."""
    server = Server(httpx.ConnectError("down"), 502, 200, 400)
    make = httpx.Client
    monkeypatch.setattr(
        consent_post.httpx,
        "Client",
        lambda **_: make(transport=httpx.MockTransport(server)),
    )
    post = ConsentPost(world.book, "s:1", ssl.create_default_context)
    assert post.tell()
    world.give()
    assert [post.tell(), post.tell(), post.tell(), post.tell()] == [False, False, True, True]
    world.withdraw()
    assert post.tell()
    assert post.tell()
    kinds = [type(parse_record(body)) for body in server.heard]
    assert kinds == [Consent, Consent, Withdrawal]
    stop = threading.Event()
    stop.set()
    post.until(stop)
