"""One stage of a study file: what is learned, how weights travel, and what is made of them."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from stillroom.common.recipes.declaration import Declaration
from stillroom.common.recipes.registry import declaration, declarations
from stillroom.common.settings import Section

Name = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,40}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Options = TypeVar("Options", bound=Section)


class Optimiser(Section):
    """How a site trains between two exchanges."""

    learning_rate: Positive = 1e-3
    """At the first round; follows a cosine down to a tenth at the stage's last round."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    batch_size: Count = 2
    steps: Count = 10
    """Optimiser steps per site and round."""
    clip_norm: Positive = 5.0
    """Gradients are shortened to this Euclidean norm before every step."""
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """FedProx (Li et al. 2020): weight of half the squared distance from the round's global model,
    which holds sites with different scans together."""
    keep_optimiser: bool = False
    """Carry the optimiser's moments from round to round at the site instead of starting anew. They
    never leave."""


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
    """``trimmed-mean``: share of the sites dropped at each end; at least one site."""
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
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the global model, each round's past times this plus the new
    model times the rest, and leave that as the stage's last model; needs encoding ``fp32``."""

    @property
    def fewest_sites(self) -> int:
        """Updates below which ``method`` would drop none, and so protect from none."""
        return 1 if self.method == "mean" else 3


class Privacy(Section):
    """Differential privacy of the weights, made at the site before anything leaves.

    What is protected is all that one site's weights say in one stage: whatever other scans it
    might have held, the server could tell the difference only within epsilon and delta. The server
    too sees nothing but noised weights. It is not a statement about one patient, for whom the same
    epsilon is only an upper bound, and it covers weights alone: case counts, losses, times and
    scores leave as they are, and so do the weights of stages without this section.
    """

    clip_norm: Positive
    """Bound on the Euclidean norm of one round's change of one site."""
    noise_multiplier: Annotated[float, Field(ge=0.01, le=1e4)]
    """Standard deviation of the noise added to every value, in units of ``clip_norm``."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """For which epsilon is stated."""


class Stage(Section):
    """One use of a recipe."""

    name: Name
    recipe: Name
    """What is done; ``stillroom-server recipes`` lists them."""
    rounds: Count = 1
    label: Name | None = None
    """The one label learned, of recipes that learn one (``teach``, ``adapt``, ``bags``); only its
    owners take part."""
    start: Name | None = None
    """An earlier stage: the first round begins from its weights wherever a tensor has the same name
    and shape, instead of from fresh ones."""
    backbone: Name | None = None
    """An earlier stage whose network is used frozen, as it is."""
    teachers: tuple[Name, ...] = ()
    """Earlier stages whose networks it learns from."""
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    """Own working grid, e.g. 6 mm for a localiser; the study's when left out."""
    options: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """What only this recipe can be told; see recipes.md."""
    train: Optimiser = Optimiser()
    exchange: Exchange = Exchange()
    aggregation: Aggregation = Aggregation()
    privacy: Privacy | None = None
    label_weights: dict[Name, Positive] = Field(default_factory=dict)
    """Weight of each label type's loss; 1 when left out."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Score the model at the held-out sites after every so many rounds; 0: at the end only."""

    @property
    def declared(self) -> Declaration:
        """What its recipe declares."""
        return declaration(self.recipe)

    @property
    def exchanges(self) -> bool:
        """True when its updates carry tensors; the others return counts only."""
        return self.declared.exchanges

    @property
    def inputs(self) -> tuple[str, ...]:
        """Earlier stages whose weights travel with every task, each once."""
        first = [name for name in (self.start, self.backbone) if name is not None]
        return tuple(dict.fromkeys((*first, *self.teachers)))

    def chosen(self, options: type[Options]) -> Options:
        """Its options as the recipe's own section."""
        return options.model_validate(self.options)

    @field_validator("recipe")
    @classmethod
    def _recipe_is_installed(cls, value: str) -> str:
        if value not in declarations():
            raise ValueError(f"no such recipe is installed; there are {', '.join(declarations())}")
        return value

    @field_validator("options")
    @classmethod
    def _options_are_the_recipes(
        cls, value: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        """Spelt out in full, so that a consent covers what was left out as well."""
        if (recipe := info.data.get("recipe")) is None:
            return value
        return declaration(recipe).options.model_validate(value).model_dump(mode="json")

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> "Stage":
        """An option that would silently do nothing is a mistake, in privacy a dangerous one."""
        if not self.exchanges:
            # Compared with what it is when left out: a prepared study spells every key out.
            for name, left_out in (
                ("exchange", Exchange()),
                ("aggregation", Aggregation()),
                ("privacy", None),
            ):
                if getattr(self, name) != left_out:
                    raise ValueError(
                        f"{name}: a {self.recipe} stage exchanges no weights; leave it out"
                    )
        if self.privacy is not None and self.aggregation.method != "mean":
            raise ValueError(
                f"privacy: needs aggregation.method mean; among noised updates "
                f"{self.aggregation.method} would choose the noise"
            )
        if self.aggregation.average is not None and self.exchange.encoding != "fp32":
            raise ValueError(
                "aggregation.average: the last model is then no change of the one before, which "
                f"{self.exchange.encoding} sends; set exchange.encoding to fp32"
            )
        if self.start is not None and (
            self.privacy is not None
            or self.aggregation.clip_norm is not None
            or self.aggregation.server != "fedavg"
        ):
            raise ValueError(
                "start: the first round's change would be clipped or damped like a step of learning; "
                "leave out privacy, aggregation.clip_norm and aggregation.server, or start"
            )
        return self
