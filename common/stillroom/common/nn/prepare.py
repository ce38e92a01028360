"""``study prepare``: freeze a study together with the weights every training stage starts from."""

import hashlib
import math
from pathlib import Path

from torch import nn

from stillroom.common.accounting import epsilons
from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import ConfigError
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import PreparedStage, PreparedStudy, Stage, Study
from stillroom.common.tensorfile import write_durably, write_weights

MIB = 2**20


def prepare_study(study: Study, out: Path) -> PreparedStudy:
    """Write ``out/study.json`` and ``out/weights/<sha256>.safetensors``; depends on nothing but ``study``.

    Raises:
        ConfigError: A stage's weights exceed the study's limit (STR-105), a patch does not
            fit a model (STR-106), or a stage's noise is above the study's bound (STR-102).
        ResourceError: STR-500, a stage asks for privacy and the accountant is not installed.
            Nothing is written in any of these cases.
    """
    modules = {stage.name: _start(study, stage) for stage in study.stage if stage.exchanges}
    spent = {name: _epsilon(study.stage_named(name)) for name in modules}
    out.mkdir(parents=True, exist_ok=True)
    stages = {
        name: PreparedStage(
            initial_sha256=write_weights(out / "weights", export(module)),
            manifest=manifest_of(module),
            epsilon=spent[name],
        )
        for name, module in modules.items()
    }
    prepared = PreparedStudy(study=study, stages=stages)
    # study.json is the last to appear: a folder that has it has everything it names.
    write_durably(out / "study.json", canonical_bytes(prepared.model_dump(mode="json")))
    return prepared


def module_of(study: Study, stage: Stage) -> nn.Module:
    """The network that ``stage`` trains, with fresh weights."""
    build = stage.declared.build
    if build is None:
        raise ValueError(f"stage {stage.name} trains no network")
    return build(study, stage)


def _epsilon(stage: Stage) -> tuple[float, ...] | None:
    """What a stage's privacy has spent after each round; None without privacy."""
    if stage.privacy is None:
        return None
    return epsilons(stage.privacy.noise_multiplier, stage.privacy.delta, rounds=stage.rounds)


def _start(study: Study, stage: Stage) -> nn.Module:
    text = f"{study.study.seed}/{stage.name}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    module = initial(lambda: module_of(study, stage), seed)
    manifest, bound = manifest_of(module), study.study.max_update_norm
    size, limit = manifest.nbytes / MIB, study.study.max_update_mib
    if size > limit:
        raise ConfigError(
            f"Stage {stage.name} would exchange {size:.1f} MiB, "
            f"more than the study's limit of {limit:g} MiB for one update.",
            fix="Choose a smaller model, or raise study.max_update_mib.",
            code="STR-105",
        )
    if stage.privacy is not None:
        values = sum(math.prod(spec.shape) for spec in manifest.tensors)
        noise = stage.privacy.noise_multiplier * stage.privacy.clip_norm * math.sqrt(values)
        if noise > bound:
            raise ConfigError(
                f"The noise of stage {stage.name} has a norm of {noise:.3g} over {values} values, "
                f"and the study refuses updates above {bound:.3g}.",
                fix="Lower the stage's privacy.clip_norm, or raise study.max_update_norm.",
                code="STR-102",
            )
    return module
