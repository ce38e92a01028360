"""Where a study is: one small value, and every step from its start to its end. Pure.

::

    inventory -> wave -> round 1 -> [check] -> round 2 ... -> score -> wave -> ... -> done
                 `----------------------- once per wave ------------------'

A state is frozen; a step returns the next one. Written durably after every step, it is all that a
process needs to go on where another one was killed: what it does next is a function of the
study and of this value, never of what the process remembers. No weights are in it, only names of files.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from stillroom.common.errors import TrustError
from stillroom.common.messages import Delta, ModelRef
from stillroom.common.study import Stage, Study
from stillroom.server.rounds.schedule import exchanges_weights, waves

FORMAT = "stillroom-run-1"
Phase = Literal["inventory", "wave", "round", "check", "score", "done"]
PHASES: tuple[Phase, ...] = ("inventory", "wave", "round", "check", "score", "done")
Counts = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A study between two steps.

    Attributes:
        study: Digest of the prepared study; a state of another study is never gone on with.
        started_at: Seconds since the epoch, at the first start.
        step: Number of steps made: two states of a run with the same step are the same.
        phase: What is to be done next; in ``round`` and ``check``, of round ``number``.
        wave: Index in ``schedule.waves``.
        number: 1-based round that is open or was just committed; 0 outside of rounds.
        inventories: Site -> its counts; who missed the first question may join later.
        models: Stage -> its model as of the last committed round.
        closed: Stage -> rounds committed.
        slowest: Stage -> seconds of the slowest admitted answer of its rounds so far.
        late: Sites that had not answered when the last round closed.
        scores: Stage -> site -> its numbers, once the stage's last model was scored.
        standings: Site -> standing of its consent, as last asked; None where no registry is kept.
        left: Site -> why it was told to be left out, so that it is told once.
        notes: What was not as it should be, in words.
        error: Of a study that ended without its student: code, what, fix, exit status.
        entries: What the last step says in the log.
        logged: How many entries the log had before.
    """

    study: str
    started_at: float
    step: int = 0
    phase: Phase = "inventory"
    wave: int = 0
    number: int = 0
    inventories: Mapping[str, Counts] = field(default_factory=dict)
    models: Mapping[str, ModelRef] = field(default_factory=dict)
    closed: Mapping[str, int] = field(default_factory=dict)
    slowest: Mapping[str, float] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    scores: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)
    standings: Mapping[str, str] | None = None
    left: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None
    entries: tuple[str, ...] = ()
    logged: int = 0

    @property
    def final(self) -> bool:
        """Nothing more will happen."""
        return self.phase == "done"

    # -- what is not a step: known again when the step is repeated ------------------------------

    def noted(self, text: str) -> "RunState":
        """With one more note."""
        return replace(self, notes=(*self.notes, text))

    def stood(self, standings: Mapping[str, str] | None, left: Mapping[str, str]) -> "RunState":
        """With consents as they are now."""
        return replace(self, standings=standings, left={**self.left, **left})

    def joined(self, site: str, counts: Counts) -> "RunState":
        """With one more site, or as it is when the site is known: counts do not change under a study.

        It takes part from the next round that is opened; rounds that have closed are not made again.
        """
        if self.phase in {"inventory", "done"}:
            raise ValueError(f"nobody joins a study at {self.phase}")
        if site in self.inventories:
            return self
        left = {name: why for name, why in self.left.items() if name != site}
        return replace(self, inventories={**self.inventories, site: dict(counts)}, left=left)

    # -- steps ------------------------------------------------------------------------------------

    def counted(self, inventories: Mapping[str, Counts]) -> "RunState":
        """Inventories were taken; the first wave is to be opened."""
        self._require("inventory")
        return self._next(phase="wave", inventories=dict(inventories))

    def opened(self, study: Study, models: Mapping[str, ModelRef]) -> "RunState":
        """A wave was opened with the models its stages start from; its first round is to be run."""
        self._require("wave")
        wanted = {stage.name for stage in wave_of(study, self) if exchanges_weights(stage)}
        if models.keys() != wanted:
            raise ValueError("a wave opens with exactly its stages' models")
        return self._next(phase="round", number=1, models={**self.models, **models}, late=())

    def committed(
        self,
        study: Study,
        models: Mapping[str, ModelRef],
        seconds: Mapping[str, float],
        late: tuple[str, ...] = (),
    ) -> "RunState":
        """The open round of every stage that has it is closed; there is no way back behind this.

        Args:
            study: The study.
            models: Stage -> new model, of every stage of this round that exchanges weights.
            seconds: Stage -> slowest admitted answer of this round.
            late: Sites that had not answered.
        """
        self._require("round")
        stages = active(study, self)
        if models.keys() != {stage.name for stage in stages if exchanges_weights(stage)}:
            raise ValueError("a round commits exactly its stages' models")
        slowest = dict(self.slowest)
        for name, value in seconds.items():
            slowest[name] = max(value, slowest.get(name, 0.0))
        after = self._next(
            models={**self.models, **models},
            closed={**self.closed, **{stage.name: self.number for stage in stages}},
            slowest=slowest,
            late=tuple(sorted(late)),
        )
        return replace(after, phase="check") if to_check(study, after) else _onwards(study, after)

    def checked(self, study: Study) -> "RunState":
        """The models of this round were scored where training goes on; the next is to be run."""
        self._require("check")
        return _onwards(study, self._next())

    def scored(self, study: Study, scores: Mapping[str, Mapping[str, Counts]]) -> "RunState":
        """The wave's last models were scored; the next wave is to be opened, if there is one."""
        self._require("score")
        more = self.wave + 1 < len(waves(study))
        return self._next(
            phase="wave" if more else "done",
            wave=self.wave + 1,
            number=0,
            scores={**self.scores, **scores},
        )

    def failed(self, error: Mapping[str, Any]) -> "RunState":
        """The study ends here, with ``error``, whatever was to come."""
        if self.final:
            raise ValueError("the study has ended")
        return self._next(phase="done", error=dict(error))

    def _require(self, phase: Phase) -> None:
        if self.phase != phase:
            raise ValueError(f"the study is at {self.phase}, not at {phase}")

    def _next(self, **changes: Any) -> "RunState":
        return replace(self, step=self.step + 1, **changes)

    # -- as a document ----------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """What ``from_json`` reads."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> "RunState":
        """The state that ``as_json`` wrote.

        Raises:
            TrustError: STR-514. It is not one: better no study than one that goes on from a guess.
        """
        try:
            fields = dict(value)
            if fields.pop("format") != FORMAT or fields["phase"] not in PHASES:
                raise ValueError("another format")
            fields["models"] = {n: _model(m) for n, m in fields["models"].items()}
            for name in ("late", "notes", "entries"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise damaged() from error


def wave_of(study: Study, state: RunState) -> tuple[Stage, ...]:
    """The stages of the wave that is open or to be opened."""
    return waves(study)[state.wave]


def active(study: Study, state: RunState) -> tuple[Stage, ...]:
    """The stages that have round ``state.number``."""
    return tuple(stage for stage in wave_of(study, state) if state.number <= stage.rounds)


def to_check(study: Study, state: RunState) -> tuple[Stage, ...]:
    """The stages whose model is scored after round ``state.number``, before they go on."""
    return tuple(
        stage
        for stage in active(study, state)
        if exchanges_weights(stage)
        and stage.evaluate_every
        and state.number % stage.evaluate_every == 0
        and state.number < stage.rounds
    )


def files_of(state: RunState) -> set[str]:
    """Digests of the files a site may still need: every model, and the smaller way to it."""
    names = {model.sha256 for model in state.models.values()}
    return names | {m.delta.sha256 for m in state.models.values() if m.delta is not None}


def damaged() -> TrustError:
    """The refusal to go on from something that is no state of this study."""
    return TrustError(
        "The run's state.json is damaged, or of another study.",
        fix="Restore the run's folder from a copy, or start the study in a new folder.",
        code="STR-514",
    )


def _onwards(study: Study, state: RunState) -> RunState:
    """From a round that is behind us to the next, or to the scores of the last models."""
    if state.number < max(stage.rounds for stage in wave_of(study, state)):
        return replace(state, phase="round", number=state.number + 1)
    return replace(state, phase="score")


def _model(value: Mapping[str, Any]) -> ModelRef:
    delta = value["delta"]
    return ModelRef(value["sha256"], value["nbytes"], None if delta is None else Delta(**delta))
