"""The study file: what the consortium decided, and nothing a site may change.

A study is written as TOML by a data scientist, frozen by ``study prepare`` (which adds the
digest of every stage's initial weights and manifest) and named by the SHA-256 of its canonical JSON.
"""

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stillroom.common.canonical import digest, file_digest
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.manifest import Manifest

Name = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,40}$")]
SiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
"""As in certificates (``stillroom.common.pki.names``)."""
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Recipe = Literal["teach", "localise", "pseudolabel", "distil"]

TRAINING_RECIPES = frozenset({"teach", "distil"})
"""Recipes that exchange weights; the others return counts only."""


class Section(BaseModel):
    """Immutable, and a misspelt key is an error rather than a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Quorum(Section):
    """When a round counts."""

    min_sites: Count = 1
    """Fewest usable updates of the sites that were asked; fewer end the study."""
    deadline_s: Positive = 3600.0
    """A site that has not answered by then is recorded as late and left out. From a stage's second
    round on the deadline is shorter: three times the slowest answer seen, at least a minute."""
    grace_s: Positive = 600.0
    """Once ``min_sites`` usable updates are there, how long the other sites may still take."""


class StudySection(Section):
    """Name and rules of the study."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,40}$")]
    """For people; what identifies a study is its digest."""
    seed: int = 0
    """Of the initial weights and of every random choice at the sites."""
    quorum: Quorum = Quorum()
    min_cohort: Annotated[int, Field(ge=1)] = 1
    """Counts below this leave a site as 0."""
    max_update_mib: Positive = 512.0
    """A stage whose manifest is larger is refused before it starts."""
    max_update_norm: Positive = 1e6
    """Euclidean norm of all tensors of one update, above which it is refused."""
    held_out: tuple[SiteName, ...] = ()
    """Sites that train nothing and are only evaluated."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of a site's truly labelled cases kept out of training and scored by that site."""
    expires: date | None = None
    """Last day (UTC) on which a site works on it, e.g. 2027-06-30; no end when left out."""


class Volume(Section):
    """One fixed meaning of a voxel for everyone."""

    spacing_mm: tuple[Positive, Positive, Positive]
    """Working grid along (x, y, z)."""
    patch: tuple[Count, Count, Count]
    """Training patch and inference window along (x, y, z), in voxels."""
    hu_window: tuple[float, float] = (-1024.0, 696.0)
    """Clipped to this range, then scaled to [-1, 1]."""
    roi: Literal["none", "heart"] = "none"
    """``heart``: crop to a mask or box of the site, or to what a ``localise`` stage found;
    a case with none of them keeps its whole field of view."""
    margin_mm: Annotated[float, Field(ge=0)] = 20.0
    """Added around the heart on every side when cropping."""
    min_slices: Count = 16
    """Series with fewer are quarantined."""
    condition_on: Name | None = None
    """A mask label whose raw integer map becomes the second input channel (the paper's option)."""

    @model_validator(mode="after")
    def _window_is_ordered(self) -> "Volume":
        if self.hu_window[0] >= self.hu_window[1]:
            raise ValueError("hu_window must be [low, high]")
        return self


class PointsLabel(Section):
    """Anatomical points, learned as balls and decoded by largest component."""

    kind: Literal["points"]
    names: Annotated[tuple[Name, ...], Field(min_length=1)]
    radius_mm: Positive = 4.0
    tolerance_mm: Positive = 10.0
    """A decoded point farther from the truth than this counts as missed."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order of their index, background (0) left out."""
        return self.names


class MaskLabel(Section):
    """A segmentation with one or more classes."""

    kind: Literal["mask"]
    classes: Annotated[tuple[Name, ...], Field(min_length=1)]
    min_dice: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A class below this Dice counts as not detected in that case."""


Label = Annotated[PointsLabel | MaskLabel, Field(discriminator="kind")]


class Model(Section):
    """Architecture and size of a teacher or of the student."""

    arch: Literal["dynunet", "light-swin", "swin-unetr"]
    channels: tuple[Count, ...] | None = None
    """``dynunet``: features per level."""
    feature_size: Count | None = None
    """``light-swin`` and ``swin-unetr``: width of the first stage."""

    @model_validator(mode="after")
    def _size_fits_arch(self) -> "Model":
        wanted, other = (
            ("channels", "feature_size") if self.arch == "dynunet" else ("feature_size", "channels")
        )
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.arch} needs {wanted} and nothing else")
        return self


class Optimiser(Section):
    """How a site trains between two exchanges."""

    learning_rate: Positive = 1e-3
    """At the first round; follows a cosine down to a tenth at the stage's last round."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    batch_size: Count = 2
    steps: Count = 10
    """Optimiser steps per site and round."""
    clip_norm: Positive = 5.0
    proximal: Annotated[float, Field(ge=0)] = 0.0
    """FedProx (Li et al. 2020): weight of half the squared distance from the round's global model."""
    keep_optimiser: bool = False
    """Carry the optimiser's moments from round to round at the site instead of starting anew."""


class Exchange(Section):
    """How a stage's weights travel."""

    encoding: Literal["fp32", "bf16-delta", "int8-delta"] = "fp32"
    """``fp32``: every weight as it is. ``bf16-delta``, ``int8-delta``: what changed since the last
    round, in two bytes or one a weight, packed; what rounding loses is added to the next round."""


class Aggregation(Section):
    """What the server makes of the updates of a round."""

    method: Literal["mean", "trimmed-mean", "median"] = "mean"
    """``mean`` weighs each site by its cases, per group. The other two look at every coordinate of
    all updates and ignore case counts: a few hostile or broken sites cannot move them far."""
    trim: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """``trimmed-mean``: share of the sites dropped at each end."""
    clip_norm: Positive | None = None
    """An update that is farther than this from the global model is shortened to it."""
    server: Literal["fedavg", "fedadam", "fedyogi"] = "fedavg"
    """What is done with the mean change (Reddi et al. 2021): applied as it is, or through an
    adaptive optimiser at the server."""
    learning_rate: Positive = 0.01
    """Of ``fedadam`` and ``fedyogi``."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3
    """Adaptivity: the constant beside the square root."""


class Privacy(Section):
    """Differential privacy of a site's contribution, made at the site before anything leaves."""

    clip_norm: Positive
    """Bound on the Euclidean norm of one round's change of one site."""
    noise_multiplier: Positive
    """Standard deviation of the noise added to every value, in units of ``clip_norm``."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """For which epsilon is stated."""


class Stage(Section):
    """One use of a recipe."""

    name: Name
    recipe: Recipe
    rounds: Count = 1
    label: Name | None = None
    """``teach``: the label learned; only its owners take part."""
    teachers: tuple[Name, ...] = ()
    """``pseudolabel``, ``localise``: earlier ``teach`` stages."""
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    """Own working grid, e.g. 6 mm for a localiser; the study's when left out."""
    train: Optimiser = Optimiser()
    exchange: Exchange = Exchange()
    aggregation: Aggregation = Aggregation()
    privacy: Privacy | None = None
    label_weights: dict[Name, Positive] = Field(default_factory=dict)
    """``distil``: weight of each label type's loss; 1 when left out."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Score the model at the held-out sites after every so many rounds; 0: at the end only."""


class Study(Section):
    """A whole study file."""

    study: StudySection
    volume: Volume
    label: Annotated[dict[Name, Label], Field(min_length=1)]
    model: dict[Literal["teacher", "student"], Model]
    stage: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read and check a study file.

        Raises:
            ConfigError: Unreadable, not TOML, or a key is unknown, missing or out of range
                (STR-101, STR-102); a stage refers to something that does not exist (STR-103).
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"The study file {path} cannot be read.", fix="Check the path.", code="STR-101"
            ) from error
        try:
            return cls.parse(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"{path} is not TOML: {error}.", fix="Correct the line it names.", code="STR-102"
            ) from error

    @classmethod
    def parse(cls, value: dict[str, Any]) -> "Study":
        """Check a study given as nested dicts; raises as ``load`` does."""
        try:
            study = cls.model_validate(value)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors(include_input=False)
            )
            raise ConfigError(
                f"The study file has {error.error_count()} problem(s): {problems}.",
                fix="Correct these keys; all are explained in docs/reference/study-file.md.",
                code="STR-102",
            ) from error
        study.check_references()
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

    def student_labels(self) -> dict[str, Label]:
        """Label types the student has a head for: all but those only a localiser learns.

        A label is a localiser's alone when a ``localise`` stage uses its teacher and no
        ``pseudolabel`` stage does.
        """
        pseudo = {t for s in self.stage if s.recipe == "pseudolabel" for t in s.teachers}
        coarse = {t for s in self.stage if s.recipe == "localise" for t in s.teachers} - pseudo
        hidden = {self.stage_named(t).label for t in coarse}
        return {name: label for name, label in self.label.items() if name not in hidden}

    def check_references(self) -> None:
        """Refuse a stage that is defined twice or consumes what no earlier one produces."""
        earlier: dict[str, Stage] = {}
        for stage in self.stage:
            where = f"stage {stage.name}"
            if stage.name in earlier:
                raise _reference(f"{where} is defined twice", "Give every stage its own name.")
            if stage.recipe == "teach":
                if stage.label not in self.label:
                    raise _reference(
                        f"{where} teaches label {stage.label}, which is not defined",
                        f"Use one of {', '.join(self.label)}.",
                    )
                if "teacher" not in self.model:
                    raise _reference(f"{where} needs [model.teacher]", "Add it.")
            if stage.recipe in {"pseudolabel", "localise"} and not stage.teachers:
                raise _reference(f"{where} has no teachers", "List earlier teach stages.")
            for teacher in stage.teachers:
                if teacher not in earlier or earlier[teacher].recipe != "teach":
                    raise _reference(
                        f"{where} uses teacher {teacher}, which no earlier teach stage produces",
                        "Name an earlier teach stage, or move this stage after it.",
                    )
            if stage.recipe == "distil" and "student" not in self.model:
                raise _reference(f"{where} needs [model.student]", "Add it.")
            for name in stage.label_weights:
                if name not in self.label:
                    raise _reference(
                        f"{where} weighs label {name}, which is not defined", "Remove it."
                    )
            earlier[stage.name] = stage
        condition = self.volume.condition_on
        if condition is not None and (
            condition not in self.label or self.label[condition].kind != "mask"
        ):
            raise _reference(
                f"volume.condition_on names {condition}, which is not a mask label",
                "Name a mask label or leave it out.",
            )


def _reference(what: str, fix: str) -> ConfigError:
    return ConfigError(f"In the study file, {what}.", fix=fix, code="STR-103")


class PreparedStage(Section):
    """What ``study prepare`` adds for one training stage."""

    initial_sha256: str
    """Digest of the safetensors file with the initial weights."""
    manifest: Manifest


class PreparedStudy(Section):
    """A study with its starting point: the thing a site consents to."""

    format: Literal["stillroom-study-1"] = "stillroom-study-1"
    study: Study
    stages: dict[str, PreparedStage]
    """By stage name; only stages that exchange weights."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the study's name in every message and log entry."""
        return digest(self.model_dump(mode="json"))

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
