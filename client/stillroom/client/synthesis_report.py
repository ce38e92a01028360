"""One run of ``synthesise``: models and cases in, slices and a report out."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.cohort import all_cases, no_case, validation_ids
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.models import frozen
from stillroom.client.synthesis import compare, real_slices, sample
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Setting, seeded
from stillroom.common.errors import ConfigError
from stillroom.common.memorisation import LEAST_SAMPLES, MemorisationReport
from stillroom.common.nn.denoiser import Denoiser
from stillroom.common.study import PreparedStudy
from stillroom.common.tensorfile import read_weights, write_durably

Named = tuple[str, Path]
"""A stage, and the file of its model, called by its SHA-256."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn.

    Attributes:
        count: Slices.
        steps: Of the sampler.
    """

    count: int = LEAST_SAMPLES
    steps: int = 50


@dataclass(frozen=True, slots=True)
class Made:
    """What was written.

    Attributes:
        report: The finding.
        path: Its file.
    """

    report: MemorisationReport
    path: Path


def synthesise_at(  # a report is all of these
    store: CaseStore,
    prepared: PreparedStudy,
    *,
    site: str,
    denoiser: Named,
    encoder: Named,
    drawing: Drawing,
    out: Path,
    device: Setting = "auto",
) -> Made:
    """Draw slices, check them against the site's own, and write both below ``out``.

    ``<stage>.<8 of the model's SHA-256>.json`` is the report. The slices are beside it, ``.npy``
    ``(count, H, W)`` int16 Hounsfield units, when the model passed; else there are none, since they may be
    somebody's.

    Raises:
        ConfigError: STR-103, the stages are not a denoiser and something that sees slices.
        DataError: STR-401, no training case, or none that was kept from training.
        TrustError: STR-204, a model is not what its name says.
    """
    context, (stage, model_sha256), encoder_sha256 = _context(
        store, prepared, denoiser, encoder, device
    )
    study, chosen = prepared.study, context.choose_device()
    infos = all_cases(store)
    held_out = validation_ids(infos, study)
    ids = [info.id for info in infos if info.id not in held_out]
    if not ids or not held_out:
        raise no_case("no case to compare with, or none that was kept from training")
    read = WorkingSet.of_stage(store, study, study.stage_named(stage)).case
    with seeded(chosen, study.study.seed):
        module = frozen(context, stage, chosen)
        if not isinstance(module, Denoiser):
            raise TypeError(f"stage {stage} has no denoiser")
        slices = sample(
            module,
            drawing.count,
            study.volume,
            steps=drawing.steps,
            seed=study.study.seed,
            device=chosen,
        )
        found = compare(
            slices,
            real_slices(map(read, ids), study.volume),
            real_slices(map(read, sorted(held_out)), study.volume),
            encoder=frozen(context, encoder[0], chosen),
            depth=study.volume.patch[2],
            device=chosen,
        )
    values = asdict(found)
    report = MemorisationReport(
        study=prepared.digest,
        stage=stage,
        model_sha256=model_sha256,
        encoder_sha256=encoder_sha256,
        site=site,
        samples=drawing.count,
        steps=drawing.steps,
        training_slices=values.pop("training"),
        held_out_slices=values.pop("held_out"),
        **values,
    )
    return _write(report, slices.numpy(), out, study.volume.hu_window)


def _context(
    store: CaseStore, prepared: PreparedStudy, denoiser: Named, encoder: Named, device: Setting
) -> tuple[RecipeContext, tuple[str, str], str]:
    """What holds both models; the denoiser's stage and digest; the encoder's digest."""
    study = prepared.study
    stages = {one.name: one for one in study.stage}
    models = {}
    for (name, path), kinds in ((denoiser, {"denoiser"}), (encoder, {"teacher", "student"})):
        if name not in stages or stages[name].declared.produces not in kinds:
            raise ConfigError(
                f"Stage {name} leaves no {' or '.join(sorted(kinds))}.",
                fix="Name another stage of the study.",
                code="STR-103",
            )
        weights = read_weights(path.parent, path.stem)
        prepared.stages[name].manifest.check(weights, max_norm=study.study.max_update_norm)
        models[name] = (weights, path.stem)
    stage = stages[denoiser[0]]
    context = RecipeContext(study, stage, stage.rounds, store, teachers=models, device=device)
    return context, (stage.name, denoiser[1].stem), encoder[1].stem


def _write(
    report: MemorisationReport, slices: np.ndarray, out: Path, window: tuple[float, float]
) -> Made:
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = out / f"{report.stage}.{report.model_sha256[:8]}.json"
    pictures = path.with_suffix(".npy")
    pictures.unlink(missing_ok=True)
    if report.passed:
        low, high = window
        hu = np.rint((slices[:, 0] + 1) * ((high - low) / 2) + low).astype(np.int16)
        np.save(pictures, hu)
    write_durably(path, (report.model_dump_json(indent=1) + "\n").encode())
    return Made(report, path)
