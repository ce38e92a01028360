"""The study file: what the consortium decided, and nothing a site may change.

A study is written as TOML by a data scientist, frozen by ``study prepare`` (which adds the
digest of every stage's initial weights and manifest) and named by the SHA-256 of its canonical JSON.
"""

from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from typing_extensions import override

from stillroom.common.accounting import exact_delta
from stillroom.common.architecture import Model
from stillroom.common.canonical import digest, file_digest
from stillroom.common.errors import TrustError
from stillroom.common.labels import (
    BagLabel,
    Label,
    MaskLabel,
    PointsLabel,
    Volume,
    VoxelLabel,
)
from stillroom.common.manifest import Manifest
from stillroom.common.settings import Section, checked, read_toml
from stillroom.common.stage import (
    Aggregation,
    Count,
    Exchange,
    Name,
    Optimiser,
    Positive,
    Privacy,
    Stage,
)
from stillroom.common.study_graph import check_references

__all__ = [
    "Aggregation",
    "BagLabel",
    "Exchange",
    "Label",
    "MaskLabel",
    "Model",
    "Name",
    "Optimiser",
    "PointsLabel",
    "PreparedStage",
    "PreparedStudy",
    "Privacy",
    "Quorum",
    "Section",
    "SiteName",
    "Stage",
    "Study",
    "StudySection",
    "Volume",
    "VoxelLabel",
]

SiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
"""As in certificates (``stillroom.common.pki.names``)."""


class Quorum(Section):
    """When a round counts."""

    min_sites: Count = 1
    """Fewest usable updates of the sites that were asked; fewer end the study."""
    deadline_s: Positive = 3600.0
    """A site that has not answered by then is recorded as late and left out. From a stage's second
    round on the deadline is shorter: three times the slowest answer seen, at least a minute."""
    grace_s: Positive = 600.0
    """Once ``min_sites`` usable updates are there, how long the other sites may still take."""
    witnesses: Annotated[int, Field(ge=0)] = 0
    """Sites that must have cosigned the log with a round in it before the next round counts."""


class StudySection(Section):
    """Name and rules of the study."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,40}$")]
    """For people; what identifies a study is its digest."""
    seed: int = 0
    """Of the initial weights and of every random choice at the sites."""
    quorum: Quorum = Quorum()
    min_cohort: Annotated[int, Field(ge=1)] = 1
    """Counts below this leave a site as 0; scores over fewer scans do not leave."""
    max_update_mib: Positive = 512.0
    """A stage whose manifest is larger is refused before it starts."""
    max_update_norm: Positive = 1e6
    """Euclidean norm of all tensors of one update, above which it is refused."""
    held_out: tuple[SiteName, ...] = ()
    """Sites that train nothing and are only evaluated."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of a site's truly labelled cases kept out of training and scored by that site."""
    retain_updates: Literal["none", "last", "all"] = "none"
    """Rounds whose updates the server keeps, so that ``stillroom-audit replay`` can make their models
    again: of no round, of every stage's last one, or of all."""
    expires: date | None = None
    """Last day (UTC) on which a site works on it, e.g. 2027-06-30; no end when left out."""


class Study(Section):
    """A whole study file."""

    study: StudySection
    volume: Volume
    label: Annotated[dict[Name, Label], Field(min_length=1)]
    model: dict[Literal["teacher", "student", "denoiser"], Model] = Field(default_factory=dict)
    stage: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read and check a study file.

        Raises:
            ConfigError: Unreadable, not TOML, or a key is unknown, missing or out of range
                (STR-101, STR-102); a stage refers to something that does not exist (STR-103).
        """
        return cls.parse(read_toml(path))

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "Study":
        """Check a study given as nested dicts; raises as ``load`` does."""
        study = checked(cls, value, what="The study file", page="study-file.md")
        check_references(study)
        return study

    def stage_named(self, name: str) -> Stage:
        """The stage called ``name``; KeyError when there is none."""
        for stage in self.stage:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def spacing_of(self, stage: Stage) -> tuple[float, float, float]:
        """Working grid of a stage along (x, y, z), in mm."""
        return stage.spacing_mm or self.volume.spacing_mm

    @property
    def input_channels(self) -> int:
        """1, or 2 when conditioned on a label map."""
        return 1 if self.volume.condition_on is None else 2

    def voxel_labels(self) -> dict[str, VoxelLabel]:
        """Label types that are predicted voxel by voxel: masks and points."""
        return {n: one for n, one in self.label.items() if not isinstance(one, BagLabel)}

    def student_labels(self) -> dict[str, VoxelLabel]:
        """Label types the student has a head for: all but those only a localiser learns.

        A label is a localiser's alone when a ``localise`` stage uses its teacher and no
        ``pseudolabel`` stage does. What an ``adapt`` stage learns on top of a network is that
        stage's alone, too, unless a teacher learns it as well.
        """
        pseudo = {t for s in self.stage if s.recipe == "pseudolabel" for t in s.teachers}
        coarse = {t for s in self.stage if s.recipe == "localise" for t in s.teachers} - pseudo
        hidden = {self.stage_named(t).label for t in coarse}
        taught = {s.label for s in self.stage if s.recipe == "teach"}
        hidden |= {s.label for s in self.stage if s.backbone is not None} - taught
        return {n: label for n, label in self.voxel_labels().items() if n not in hidden}

    def predicted_labels(self, stage: Stage) -> tuple[str, ...]:
        """Label types that ``stage``'s model predicts and can be scored on; none for some models."""
        if not stage.declared.scored:
            return ()
        return tuple(self.student_labels()) if stage.label is None else (stage.label,)


class PreparedStage(Section):
    """What ``study prepare`` adds for one training stage."""

    initial_sha256: str
    """Digest of the safetensors file with the initial weights."""
    manifest: Manifest
    epsilon: tuple[Positive, ...] | None = None
    """Of a stage with privacy: what it has spent after each round, all earlier ones included."""


class PreparedStudy(Section):
    """A study with its starting point: the thing a site consents to."""

    format: Literal["stillroom-study-1"] = "stillroom-study-1"
    study: Study
    stages: dict[str, PreparedStage]
    """By stage name; only stages that exchange weights."""

    @model_validator(mode="after")
    def _epsilon_is_believable(self) -> "PreparedStudy":
        """A hospital consents to this number: no other than the right one is worth a signature."""
        for name, prepared in self.stages.items():
            if (stage := {s.name: s for s in self.study.stage}.get(name)) is None:
                raise ValueError("weights of a stage that the study does not have")
            privacy, epsilon = stage.privacy, prepared.epsilon
            if (privacy is None) != (epsilon is None):
                raise ValueError(
                    f"stage {name}: epsilon belongs to privacy, and privacy to epsilon"
                )
            if privacy is None or epsilon is None:
                continue
            if len(epsilon) != stage.rounds or any(
                exact_delta(spent, privacy.noise_multiplier, number) > privacy.delta
                for number, spent in enumerate(epsilon, 1)
            ):
                raise ValueError(f"stage {name}: epsilon is less than its noise can give")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the study's name in every message and log entry.

        Of one that was read: of the keys that were written, whatever keys this release has besides.
        Asked a dozen times for every task, and milliseconds of work for a large model.
        """
        return digest(self.model_dump(mode="json"))

    @model_validator(mode="wrap")
    @classmethod
    def _keep_its_name(
        cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        """A prepared study keeps its digest when a later release knows more keys (ADR 0031)."""
        made = handler(value)
        if info.mode == "json":
            made.__dict__["digest"] = digest(value)
        return made

    @override
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, which would copy the digest of the original too."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    @classmethod
    def load(cls, folder: Path) -> "PreparedStudy":
        """Read what ``study prepare`` wrote and prove every file of initial weights.

        Args:
            folder: Holds ``study.json`` and ``weights/<sha256>.safetensors``.

        Raises:
            TrustError: STR-204, a file is missing, damaged or has another digest.
        """
        try:
            prepared = cls.model_validate_json((folder / "study.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise TrustError(
                "The prepared study cannot be read.", fix="Prepare it again.", code="STR-204"
            ) from error
        for name, stage in prepared.stages.items():
            path = folder / "weights" / f"{stage.initial_sha256}.safetensors"
            if not path.is_file() or file_digest(path) != stage.initial_sha256:
                raise TrustError(
                    f"The initial weights of stage {name} are missing or have another digest.",
                    fix="Copy them again, or prepare the study again.",
                    code="STR-204",
                )
        return prepared
