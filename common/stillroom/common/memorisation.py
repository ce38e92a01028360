"""What a site says of a generative model before it may leave: does it repeat the site's scans?

Diffusion models can reproduce what they were trained on. A site draws slices from the model, measures how
near each is to the nearest slice that the model learned from, and sets that against slices that it never
saw. Only the counts below are told; slices and distances stay at the site.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from stillroom.common.errors import TrustError
from stillroom.common.settings import Section

NEAR = 0.05
"""Share of held-out slices that are nearer to a training slice than what counts as a copy. Our choice."""
MOST_COPIES = 0.1
"""Largest share of samples that may be as near as that. Our choice: twice what unseen slices reach."""
LEAST_SAMPLES = 64
"""Fewer show nothing: of 64 samples without a copy, the true share is below 5 % at 95 % confidence."""

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class MemorisationReport(Section):
    """One site's finding about one model."""

    format: Literal["stillroom-memorisation-1"] = "stillroom-memorisation-1"
    study: Sha256
    """Digest of the prepared study."""
    stage: str
    model_sha256: Sha256
    encoder_sha256: Sha256
    """Of the network whose maps were compared beside the voxels."""
    site: str
    samples: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    """Of the sampler."""
    training_slices: Annotated[int, Field(ge=1)]
    held_out_slices: Annotated[int, Field(ge=1)]
    copies_by_voxels: Share
    """Share of samples nearer to a training slice than ``NEAR`` of the held-out slices are."""
    copies_by_features: Share
    """The same between the encoder's features, which see a copy that was moved."""
    fid_like: Annotated[float, Field(ge=0)]
    """Fréchet distance between the encoder's features of samples and held-out slices. Not comparable with
    published FIDs, which use another encoder."""

    @property
    def passed(self) -> bool:
        """Enough samples, and no more near-copies than allowed by either measure."""
        worst = max(self.copies_by_voxels, self.copies_by_features)
        return self.samples >= LEAST_SAMPLES and worst <= MOST_COPIES

    @classmethod
    def load(cls, path: Path) -> "MemorisationReport":
        """Read what a site wrote.

        Raises:
            TrustError: STR-224, it is none.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise refused(f"{path.name} is no memorisation report") from error


def check_generative(
    stage: str,
    model_sha256: str,
    *,
    study: str,
    reports: Iterable[MemorisationReport],
    sites: Sequence[Mapping[str, Any]],
) -> None:
    """Refuse to release a generative model that some site has not tried on its own scans. Pure.

    Args:
        stage: That left it.
        model_sha256: Its file.
        study: Digest of the prepared study.
        reports: Of any model.
        sites: Those of the run: ``name`` and ``role``; each that trained must have reported.

    Raises:
        TrustError: STR-224. Reports are not signed: who gives a release its reports vouches for them.
    """
    mine = [
        r for r in reports if (r.model_sha256, r.study, r.stage) == (model_sha256, study, stage)
    ]
    if not mine:
        raise refused(f"the model of stage {stage} comes without a report on it")
    wanted = {str(site["name"]) for site in sites if site.get("role") != "held_out"}
    if missing := sorted(wanted - {report.site for report in mine}):
        raise refused(f"the model of stage {stage} has no report of {', '.join(missing)}")
    if failed := sorted(report.site for report in mine if not report.passed):
        raise refused(f"the model of stage {stage} failed the check at {', '.join(failed)}")


def refused(why: str) -> TrustError:
    """STR-224."""
    return TrustError(
        f"A generative model is not released: {why}.",
        fix="Have every training site run `stillroom-client synthesise`, and give its reports; a model that "
        "repeats scans must stay where it is.",
        code="STR-224",
    )
