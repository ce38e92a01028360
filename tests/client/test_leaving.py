"""Leaving for good: in order, whatever is killed in between, and with the record kept."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doctor"))

from place import Place

from stillroom.client import leaving
from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook
from stillroom.client.exchange import ExchangeFolder, RunnerLock
from stillroom.client.ledger import NAME, Entry, Ledger
from stillroom.common.consent import Withdrawal
from stillroom.common.errors import ResourceError
from stillroom.common.study import PreparedStudy


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A consortium whose server is away."""
    place = Place(tmp_path_factory.mktemp("leaving") / "consortium", port=9, host="127.0.0.1")
    place.found()
    return place


@pytest.fixture
def site(founded: Place, tmp_path: Path) -> SiteConfig:
    """A site that has worked."""
    shutil.copytree(founded.pristine, tmp_path / "north")
    config = SiteConfig.load(tmp_path / "north" / "site.toml")
    exchange = ExchangeFolder(config.exchange).prepare()
    (exchange.models / f"{'a' * 64}.safetensors").write_bytes(b"weights")
    (exchange.updates / f"{'b' * 64}.safetensors").write_bytes(b"weights")
    (config.state / "catalogue-0.json").write_text("{}")
    outbox = config.courier_state / "outbox" / "study"
    outbox.mkdir(parents=True)
    (outbox / "c.blob").write_bytes(b"weights")
    (config.courier_state / "receipts").mkdir()
    (config.courier_state / "receipts" / "c.json").write_text("{}")
    with Ledger(config.courier_state / NAME) as ledger:
        ledger.append(Entry(kind="refused", decision="refused", code="STR-205"))
    return config


def copies(site: SiteConfig) -> list[str]:
    """What was made from scans, and every model."""
    found = [*site.state.rglob("*"), *site.exchange.rglob("*"), *site.courier_state.rglob("*")]
    kept = {"consents", "receipts", "witness"}
    return sorted(
        p.name
        for p in found
        if p.is_file()
        and not kept & set(p.parts)
        and p.name not in {NAME, leaving.NAME, "runner.lock"}
    )


def test_everything_but_the_record_is_gone(site: SiteConfig) -> None:
    """Consent withdrawn, copies removed; ledger, receipts, consents and scans stay."""
    digest = PreparedStudy.load(site.study).digest
    assert copies(site)
    left = leaving.leave(site, lambda _: None)
    assert (left.withdrawn, left.wiped, left.server) == (1, True, "not reached")
    assert isinstance(ConsentBook.below(site.exchange).latest(digest), Withdrawal)
    assert copies(site) == []
    assert (site.courier_state / NAME).stat().st_size > 0
    assert (site.courier_state / "receipts" / "c.json").exists()
    assert list(site.data[0].iterdir())
    assert leaving.standing(site.courier_state) == left


@pytest.mark.parametrize("step", ["_withdraw", "_tell", "wipe", "_keep"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_in_between_is_finished_later(
    site: SiteConfig,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
) -> None:
    """Before or after any step: the same command goes on, and nothing is withdrawn twice."""
    real = getattr(leaving, step)

    def killed(*arguments: object) -> object:
        if after:
            real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(leaving, step, killed)
        with pytest.raises(KeyboardInterrupt):
            leaving.leave(site, lambda _: None)
    left = leaving.leave(site, lambda _: None)
    assert left.wiped
    assert copies(site) == []
    history = next((site.exchange / "consents").glob("*.history")).read_bytes().splitlines()
    assert len(history) == 2  # one consent, one withdrawal


def test_nothing_is_wiped_under_a_runner(site: SiteConfig) -> None:
    """It would write anew; the withdrawal counts at once all the same."""
    with (
        RunnerLock(ExchangeFolder(site.exchange)),
        pytest.raises(ResourceError, match="STR-513"),
    ):
        leaving.leave(site, lambda _: None)
    left = leaving.standing(site.courier_state)
    assert left is not None
    assert (left.withdrawn, left.wiped) == (1, False)
    assert copies(site)


def test_a_mark_that_cannot_be_read_begins_anew(site: SiteConfig) -> None:
    """Every step may be done twice."""
    (site.courier_state / leaving.NAME).write_text("{")
    assert leaving.standing(site.courier_state) is None
    assert leaving.leave(site, lambda _: None).wiped
    assert json.loads((site.courier_state / leaving.NAME).read_text())["wiped"] is True
