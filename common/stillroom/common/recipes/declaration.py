"""What a recipe declares: enough for everyone who has to agree to it, and nothing that trains.

The operator's check, the server, the gate and the text a hospital signs read declarations; the
work itself is on the site's side, in ``client.recipes``, under the same name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stillroom.common.errors import ConfigError
from stillroom.common.settings import Section

if TYPE_CHECKING:
    from torch import nn

    from stillroom.common.stage import Stage
    from stillroom.common.study import Study

Artefact = Literal["teacher", "student", "encoder", "denoiser", "adapter", "classifier"]
"""What a stage leaves for later ones: the weights of its last round."""


class NoOptions(Section):
    """This recipe has no options."""


@dataclass(frozen=True, slots=True)
class Uses:
    """Which artefacts of earlier stages a recipe takes in one place.

    Attributes:
        kinds: Any of these.
        fewest: 0 where it can do without.
        most: None for any number.
    """

    kinds: frozenset[Artefact] = frozenset()
    fewest: int = 0
    most: int | None = None


NOTHING = Uses(most=0)
Build = Callable[["Study", "Stage"], "nn.Module"]


def no_check(_: "Study", __: "Stage") -> None:
    """Nothing beyond what is checked of every stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One way of learning, as it is declared.

    Attributes:
        name: In study files.
        summary: One line for people who choose.
        source: Publication and section, or ``ours``.
        purpose: What a stage does, for the person who consents; after "this hospital's part: ".
        build: The network whose tensors a stage exchanges, with fresh weights; imports torch itself.
            None for recipes that exchange no weights.
        produces: None when nothing is left for later stages.
        label: ``one``: it learns ``stage.label``, and only owners of that label take part.
        kinds: Kinds of label that it can learn.
        models: Sections ``[model.NAME]`` that it needs.
        start: Artefacts that its first round may begin from, tensor by tensor of equal name and shape.
        backbone: A frozen network that it builds on, needed for predicting too.
        teachers: Frozen networks that it learns from.
        options: Keys of ``[stage.options]``.
        terms: Names of further losses that it may report, as ``train.<term>.loss``.
        scored: Its model predicts labels and can be scored.
        everywhere: Held-out sites do it too; it trains nothing.
        side_by_side: Neighbouring stages that need nothing of each other may run at once.
        check: Refuses what only this recipe can know is wrong, with a ConfigError.
    """

    name: str
    summary: str
    source: str
    purpose: Callable[["Stage"], str]
    build: Build | None = None
    produces: Artefact | None = None
    label: Literal["none", "one"] = "none"
    kinds: frozenset[str] = frozenset({"mask", "points"})
    models: tuple[str, ...] = ()
    start: frozenset[Artefact] = frozenset()
    backbone: Uses = NOTHING
    teachers: Uses = NOTHING
    options: type[Section] = NoOptions
    terms: tuple[str, ...] = ()
    scored: bool = True
    everywhere: bool = False
    side_by_side: bool = False
    check: Callable[["Study", "Stage"], None] = no_check

    def takes(self) -> list[str]:
        """What it takes from earlier stages, in words: place, kinds, and whether it must be there."""
        places = (
            ("start", Uses(self.start)),
            ("backbone", self.backbone),
            ("teachers", self.teachers),
        )
        return [
            f"{place}: {' or '.join(sorted(uses.kinds))}{'' if uses.fewest else ' (optional)'}"
            for place, uses in places
            if uses.kinds
        ]

    @property
    def exchanges(self) -> bool:
        """True when its stages exchange weights."""
        return self.build is not None


def unusable(what: str, fix: str) -> ConfigError:
    """What a declaration's ``check`` raises: STR-102, a stage that could not do what it says."""
    return ConfigError(f"In the study file, {what}.", fix=fix, code="STR-102")
