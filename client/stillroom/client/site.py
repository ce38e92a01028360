"""One hospital's own side of a study: its configuration, its working copies, what it agreed to."""

import logging
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from stillroom.client.agreement import Agreement
from stillroom.client.answers import Answers
from stillroom.client.config import SiteConfig
from stillroom.client.exchange import ExchangeFolder
from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.store import CaseStore
from stillroom.client.intake.working_copy import PrepareReport, prepare
from stillroom.client.pausing import interrupted, paused_since
from stillroom.client.recipes.context import RecipeContext, Role
from stillroom.common.errors import TrustError
from stillroom.common.manifest import Weights
from stillroom.common.messages import Task
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.tensorfile import mapped
from stillroom.common.update import check_task, outside

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Site:
    """Kept for the life of the runner, so that nothing is read or prepared twice.

    Attributes:
        config: site.toml.
        agreement: The one study it takes part in, and its consent to it: asked before, during and
            after all work.
        reports: What the latest intake made of each data folder.
        stop: Set when the runner should end: work in progress ends before its next step.
        paused: Whether the last work was ended by a pause.
    """

    config: SiteConfig
    agreement: Agreement
    reports: tuple[PrepareReport, ...] = field(default=())
    stop: threading.Event = field(default_factory=threading.Event)
    paused: bool = False

    @staticmethod
    @lru_cache(maxsize=1024)
    def open(path: Path) -> "Site":
        """The site configured in ``path``.

        Raises:
            ConfigError: The configuration cannot be used.
            TrustError: STR-204, the prepared study is damaged; STR-207, STR-209, it is not signed
                by an operator of the consortium this site joined.
        """
        config = SiteConfig.load(path)
        config.state.mkdir(parents=True, exist_ok=True)
        return Site(config, Agreement.open(config))

    @property
    def prepared(self) -> PreparedStudy:
        """The one study this site takes part in."""
        return self.agreement.prepared

    @property
    def study(self) -> Study:
        """The study file."""
        return self.prepared.study

    @property
    def role(self) -> Role:
        """What the study makes of this site."""
        return "held_out" if self.config.site in self.study.study.held_out else "train"

    @property
    def folder(self) -> Path:
        """Where this site keeps all that belongs to the study alone."""
        return self.config.state / "studies" / self.prepared.digest[:16]

    @property
    def exchange(self) -> ExchangeFolder:
        """What the courier sees too."""
        return ExchangeFolder(self.config.exchange)

    @property
    def answers(self) -> Answers:
        """What this site has answered, and would answer again."""
        days = self.config.keep_pseudo_labels_days
        return Answers(self.folder / "answers", self.exchange, days)

    def store(self) -> CaseStore:
        """This site's working copies for this study."""
        return CaseStore(self.folder)

    def predictions_dir(self, stage: str) -> Path:
        """Where a stage's predictions on this site's cases are kept for this site's own eyes."""
        return self.folder / "predictions" / stage

    def should_stop(self) -> bool:
        """Asked before every step of any work."""
        if self.stop.is_set() or self.agreement.should_stop():
            return True
        self.paused = paused_since(self.config.exchange) is not None
        return self.paused

    def say_why(self) -> None:
        """Raise what ended the work, where it was this site's own will.

        Raises:
            TrustError: As ``Agreement.require`` says.
            ResourceError: STR-515, a pause.
        """
        self.agreement.require()
        if self.paused:
            raise interrupted()

    def accept(self, kind: str, task: Task) -> None:
        """Refuse any task outside the study this site consented to.

        Raises:
            TrustError: STR-208, STR-210 as ``Agreement.require`` says; STR-205 another study's
                digest, stage, round, recipe or models.
            ContractError: STR-301, a model whose size is not its manifest's.
        """
        if task.study != self.prepared.digest:
            raise outside("another study than the one this site accepted")
        self.agreement.require()
        check_task(kind, task, self.prepared)

    def order(self, kind: str, task: Task) -> RecipeContext:
        """What a recipe needs to do ``task``.

        Raises:
            TrustError: As ``accept`` does; STR-311, a model is not there; STR-204, it is none of
                the stage's.
            ContractError: As ``accept`` does; STR-303, a model holds numbers that nobody can use.
        """
        self.accept(kind, task)
        models = {
            name: (self._model(name, ref.sha256), ref.sha256) for name, ref in task.models.items()
        }
        own, _ = models.pop(task.stage, (None, ""))
        return RecipeContext(
            study=self.study,
            stage=self.study.stage_named(task.stage),
            round=task.round,
            store=self.store(),
            weights=own,
            teachers=models,
            device=self.config.device,
            seed=self.study.study.seed,
            role=self.role,
            keep_pseudo_labels_days=self.config.keep_pseudo_labels_days,
            should_stop=self.should_stop,
            memory=self.answers.memory(kind, task),
        )

    def _model(self, stage: str, sha256: str) -> Weights:
        """A global model that the courier brought and proved by its name, read as it is used.

        Its numbers are looked at here as well: a network full of NaN would label every case with
        nonsense without any error.
        """
        manifest = self.prepared.stages[stage].manifest
        try:
            weights = mapped(self.exchange.model(sha256), manifest.layout)
        except OSError as error:
            raise TrustError(
                f"The model of stage {stage} is not in the exchange folder.",
                fix="Check that courier and runner have the same `exchange` in site.toml.",
                code="STR-311",
            ) from error
        except ValueError as error:
            raise TrustError(
                f"The file of stage {stage}'s model holds other tensors than the stage has.",
                fix="Ask the operator which study is running.",
                code="STR-204",
            ) from error
        manifest.check(weights, max_norm=self.study.study.max_update_norm)
        return weights

    def take_in(self) -> None:
        """Scan the data folders and bring the working copies up to date.

        A scan that cannot be used is quarantined with its reason; it never stops the others.
        """
        reports, before = [], self.store().ids()
        for number, folder in enumerate(self.config.data):
            catalogue = self._scan(folder)
            catalogue.save(self.config.state / f"catalogue-{number}.json")
            report = prepare(catalogue, self.study, self.config.rules, self.store())
            report.save(self.config.state / f"intake-{number}.json")
            reports.append(report)
        self.reports = tuple(reports)
        if any(report.written for report in reports) or self.store().ids() != before:
            self.answers.forget()
        log.info("site.taken_in", extra={"cases": len(self.store().ids())})

    def _scan(self, folder: Path) -> Catalogue:
        return scan(
            folder,
            state=self.config.state,
            min_slices=self.study.volume.min_slices,
            rules=self.config.rules,
        )
