"""One hospital's own side of a study: its configuration, its working copies, what it agreed to."""

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from stillroom.client.agreement import Agreement
from stillroom.client.config import SiteConfig
from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.store import CaseStore
from stillroom.client.intake.working_copy import PrepareReport, prepare
from stillroom.client.recipes.context import RecipeContext, Role
from stillroom.common.messages import Task
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.tensorfile import weights_digest
from stillroom.common.update import check_task, outside

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Site:
    """Kept for the life of the runner, so that nothing is read or prepared twice.

    Attributes:
        config: site.toml.
        agreement: The one study it takes part in, and its consent to it: asked before, during and
            after all work.
    """

    config: SiteConfig
    agreement: Agreement
    reports: tuple[PrepareReport, ...] = field(default=())

    @staticmethod
    @lru_cache(maxsize=64)
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

    def store(self) -> CaseStore:
        """This site's working copies for this study."""
        return CaseStore(self.config.state / "studies" / self.prepared.digest[:16])

    def predictions_dir(self, stage: str) -> Path:
        """Where a stage's predictions on this site's cases are kept for this site's own eyes."""
        return self.config.state / "studies" / self.prepared.digest[:16] / "predictions" / stage

    def accept(self, kind: str, task: Task) -> None:
        """Refuse any task outside the study this site consented to.

        Raises:
            TrustError: STR-208, STR-210 as ``Agreement.require`` says; STR-205 another study's
                digest, stage, round, recipe or weights.
            ContractError: STR-301 to STR-303, tensors that are not the manifest's.
        """
        if task.study != self.prepared.digest:
            raise outside("another study than the one this site accepted")
        self.agreement.require()
        check_task(kind, task, self.prepared)

    def order(self, kind: str, task: Task) -> RecipeContext:
        """What a recipe needs to do ``task``; raises as ``accept`` does."""
        self.accept(kind, task)
        return RecipeContext(
            study=self.study,
            stage=self.study.stage_named(task.stage),
            round=task.round,
            store=self.store(),
            weights=task.weights,
            teachers={
                name: (weights, weights_digest(weights)) for name, weights in task.teachers.items()
            },
            device=self.config.device,
            seed=self.study.study.seed,
            role=self.role,
            keep_pseudo_labels_days=self.config.keep_pseudo_labels_days,
            should_stop=self.agreement.should_stop,
        )

    def take_in(self) -> None:
        """Scan the data folders and bring the working copies up to date.

        A scan that cannot be used is quarantined with its reason; it never stops the others.
        """
        reports = []
        for number, folder in enumerate(self.config.data):
            catalogue = self._scan(folder)
            catalogue.save(self.config.state / f"catalogue-{number}.json")
            report = prepare(catalogue, self.study, self.config.rules, self.store())
            report.save(self.config.state / f"intake-{number}.json")
            reports.append(report)
        self.reports = tuple(reports)
        log.info("site.taken_in", extra={"cases": len(self.store().ids())})

    def _scan(self, folder: Path) -> Catalogue:
        return scan(
            folder,
            state=self.config.state,
            min_slices=self.study.volume.min_slices,
            rules=self.config.rules,
        )
