"""The hospitals of a rehearsal: phantom patients, and real scans that join them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.common.errors import ConfigError
from stillroom.common.study import Study
from stillroom.deploy.consortium_files import Layout
from stillroom.deploy.phantom.consortium import (
    CLASSES,
    Site,
    SiteSpec,
    default_sites,
    make_consortium,
)

if TYPE_CHECKING:
    from stillroom.deploy.rehearsal import Plan


@dataclass(frozen=True, slots=True)
class Hospital:
    """One site of a rehearsal.

    Attributes:
        name: As in its certificate.
        held_out: Trains nothing, is only evaluated.
        data: Folders it points intake at.
        labels: Its ``[labels]`` section.
    """

    name: str
    held_out: bool
    data: tuple[Path, ...]
    labels: dict[str, Any]


def make_hospitals(
    plan: "Plan", layout: Layout, progress: Callable[[int, int], None]
) -> tuple[Hospital, ...]:
    """Phantom patients for every site of ``plan``, and the real folders it names.

    Raises:
        ConfigError: A site or folder in ``plan.data`` does not exist.
    """
    specs = site_specs(plan)
    names = {spec.name for spec in specs}
    for site, folders in plan.data.items():
        if site not in names:
            raise ConfigError(
                f"--data names site {site}, which is not part of this rehearsal.",
                fix=f"Use one of {', '.join(sorted(names))}.",
            )
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(
                    f"--data {site}: the folder does not exist.",
                    fix="Check the path.",
                    code="STR-101",
                )
    sites = make_consortium(layout.out / "scans", sites=specs, seed=plan.seed, progress=progress)
    return tuple(
        Hospital(
            name=site.name,
            held_out=site.name == specs[-1].name,
            data=(site.folder, *plan.data.get(site.name, ())),
            labels=label_rules(site, plan.study),
        )
        for site in sites
    )


def site_specs(plan: "Plan") -> tuple[SiteSpec, ...]:
    """Training sites that own one label type each, in turn, and one held-out site that owns all."""
    owners = default_sites(
        labelled=plan.labelled, unlabelled=plan.unlabelled, held_out=plan.held_out
    )
    *train, held_out = owners
    chosen = []
    for number in range(plan.sites):
        spec = train[number % len(train)]
        round_ = number // len(train)
        chosen.append(replace(spec, name=spec.name if round_ == 0 else f"{spec.name}-{round_ + 1}"))
    return (
        *(_with_labels(spec, plan.study) for spec in chosen),
        _with_labels(held_out, plan.study),
    )


def _with_labels(spec: SiteSpec, study: Study) -> SiteSpec:
    """Only the label types that the study knows; a site may be left with none."""
    kept = {label: kind for label, kind in spec.labels.items() if label in study.label}
    return replace(spec, labels=kept)


def label_rules(site: Site, study: Study) -> dict[str, Any]:
    """The ``[labels]`` section of a phantom hospital, in the study's own class names.

    A phantom's classes are matched to the study's by their order, which is that of
    ``phantom.consortium.CLASSES``.

    Raises:
        ConfigError: The study has other classes than the phantom.
    """
    rules: dict[str, Any] = {}
    for label, rule in site.labels.items():
        wanted = study.label[label].classes
        if len(wanted) != len(CLASSES[label]):
            raise ConfigError(
                f"The phantom's label {label} has {len(CLASSES[label])} classes, "
                f"the study's {len(wanted)}.",
                fix=f"Define it with {', '.join(CLASSES[label])}, or bring your own data.",
                code="STR-102",
            )
        values = list(rule["classes"].values())
        rules[label] = {"files": rule["files"], "classes": dict(zip(wanted, values, strict=True))}
    return rules
