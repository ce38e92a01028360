"""The other two ways into a scan: a localiser on its own grid, and a student with two inputs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from stillroom.client.predict.segmentation import Options, segment
from stillroom.client.release import Localiser, Release
from stillroom.common.study import Stage


class Bright(nn.Module):
    """A localiser: everything above 100 HU is heart."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Two channels under the label's name."""
        heart = ((x[:, :1] + 1) * 1000 - 1000 > 100).float() * 40
        return {"chambers": torch.cat([40 - heart, heart], 1)[:, [0, 1, 1]]}


class Conditioned(nn.Module):
    """Says ``RV`` wherever its second input already holds a label, ``LV`` where only the first is bright."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of +-40."""
        bright, marked = (x[:, :1] + 1) * 1000 - 1000 > 100, x[:, 1:2] > 0
        channels = [~bright, bright & ~marked, bright & marked]
        points = [torch.ones_like(bright), ~torch.ones_like(bright), ~torch.ones_like(bright)]
        return {
            "chambers": torch.cat(channels, 1).float() * 40,
            "landmarks": torch.cat(points, 1).float() * 40,
        }


def test_a_localiser_is_used_when_there_is_one(
    ball_scan: Callable[..., sitk.Image], release: Release, options: Options
) -> None:
    """It runs on its own coarse grid and the box it gives holds the ball."""
    stage = Stage(name="coarse", recipe="teach", label="chambers", spacing_mm=(4, 4, 4))
    located = replace(release, localiser=Localiser(Bright(), "chambers", stage))
    findings = segment(ball_scan((100, 90, 110)), located, options)
    assert findings.place.how == "localiser"
    assert findings.place.box_mm is not None
    low, high = np.asarray(findings.place.box_mm)
    np.testing.assert_allclose(low, np.array([5, -7, 11]) - 38, atol=8)
    np.testing.assert_allclose(high, np.array([5, -7, 11]) + 38, atol=8)


def test_a_conditioned_student_sees_its_own_first_look(
    ball_scan: Callable[..., sitk.Image], release: Release, options: Options
) -> None:
    """The second look gets the first one's map, and a warning says so."""
    volume = release.study.volume.model_copy(update={"condition_on": "chambers"})
    study = release.study.model_copy(update={"volume": volume})
    findings = segment(ball_scan(), replace(release, study=study, network=Conditioned()), options)
    assert set(np.unique(findings.masks["chambers"])) == {0, 2}
    assert any("conditions" in warning for warning in findings.warnings)
