"""One hospital's own side of a study: its configuration, its working copies, what it agreed to."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from stillroom.client.config import SiteConfig
from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.store import CaseStore
from stillroom.client.intake.working_copy import PrepareReport, prepare
from stillroom.client.recipes.context import RecipeContext, Role
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.manifest import Weights
from stillroom.common.messages import Task
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.tensorfile import weights_digest

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Site:
    """Kept for the life of the runner, so that nothing is read or prepared twice.

    Attributes:
        config: site.toml.
        prepared: The one study this site takes part in.
    """

    config: SiteConfig
    prepared: PreparedStudy
    reports: tuple[PrepareReport, ...] = field(default=())

    @staticmethod
    @lru_cache(maxsize=64)
    def open(path: Path) -> "Site":
        """The site configured in ``path``.

        Raises:
            ConfigError: The configuration cannot be used.
            TrustError: STR-204, the prepared study is damaged.
        """
        config = SiteConfig.load(path)
        config.state.mkdir(parents=True, exist_ok=True)
        return Site(config, PreparedStudy.load(config.study))

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

    def accept(self, task: Task) -> None:
        """Refuse any task outside the study this site accepted.

        Raises:
            TrustError: STR-205 another study's digest, an unknown stage or round, or another
                kind of weights than that stage has.
        """
        if task.study != self.prepared.digest:
            raise _outside("another study than the one this site accepted")
        if not task.stage:
            return
        names = {stage.name: stage for stage in self.study.stage}
        stage = names.get(task.stage)
        if stage is None:
            raise _outside("a stage that is not in the study")
        if not 1 <= task.round <= stage.rounds:
            raise _outside(f"round {task.round} of a stage that has {stage.rounds}")
        if (task.weights is not None) != (stage.name in self.prepared.stages):
            raise _outside("weights, or none, where the stage has it the other way")
        expected = dict(task.teachers)
        if task.weights is not None:
            expected[stage.name] = task.weights
        if set(task.teachers) != set(stage.teachers):
            raise _outside("other teachers than the stage names")
        for name, weights in expected.items():
            self.prepared.stages[name].manifest.check(
                weights, max_norm=self.study.study.max_update_norm
            )

    def check_update(self, stage: str, weights: Weights | None, samples: Mapping[str, int]) -> None:
        """Refuse an update of ours that is not exactly what ``stage`` exchanges.

        Raises:
            ContractError: STR-301 to STR-303, its tensors; STR-304, its counts.
        """
        manifest = self.prepared.stages[stage].manifest
        manifest.check(weights or {}, max_norm=self.study.study.max_update_norm)
        if not samples.keys() <= set(manifest.groups):
            raise ContractError(
                "The sample counts name groups that the stage does not have.",
                fix="Check that site and server run the same release.",
                code="STR-304",
            )

    def order(self, task: Task) -> RecipeContext:
        """What a recipe needs to do ``task``.

        Raises:
            TrustError: STR-205 as ``accept`` says.
        """
        self.accept(task)
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


def _outside(what: str) -> TrustError:
    return TrustError(
        f"The server asked for {what}.",
        fix="Ask the operator which study is running; this site does nothing else.",
        code="STR-205",
    )
