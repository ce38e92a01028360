"""A prediction's memory has a stated bound, whatever the size of the scan."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from stillroom.client.predict.memory import Workspace

PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np, SimpleITK as sitk, torch
from torch import nn
from stillroom.client.predict.segmentation import Options, segment
from stillroom.client.release import Release
from stillroom.client.training.device import Device
from stillroom.common.study import Study

study = Study.parse({
    "study": {"name": "memory"},
    "volume": {"spacing_mm": [1, 1, 1], "patch": [64, 64, 64], "hu_window": [-1000, 1000]},
    "label": {"a": {"kind": "mask", "classes": [f"c{i}" for i in range(6)]}},
    "model": {"student": {"arch": "light-swin", "feature_size": 12}},
    "stage": [{"name": "student", "recipe": "distil"}],
})

class Net(nn.Module):
    def forward(self, x):
        return {"a": torch.cat([x * (i % 3 - 1) for i in range(7)], 1)}

torch.set_num_threads(1)
rng = np.random.default_rng(0)
scan = sitk.GetImageFromArray(rng.integers(-900, 900, (160, 256, 256), np.int16))
release = Release(study, "", "", Net())
device = Device("cpu", False, False, "")
options = Options(device, Path(sys.argv[1]), int(sys.argv[2]), overlap=0.0, coarse=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
findings = segment(scan, release, options)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert findings.masks["a"].shape == (160, 256, 256)
print((after - before) / 1024)
"""
SCAN_MIB = 160 * 256 * 256 / 2**20


@pytest.mark.parametrize("memory_mib", [300])
def test_peak_stays_below_the_bound(tmp_path: Path, memory_mib: int) -> None:
    """256 x 256 x 160 with 7 channels: logits alone would be 280 MiB, their softmax as much again.

    Bound: budget + working copy (2 bytes a voxel) + label map (1) + restoring (2 x 64 MiB) + 80 MiB
    for one window's activations and thin slabs.
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), str(memory_mib)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    peak_mib = float(run.stdout)
    assert peak_mib < memory_mib + 3 * SCAN_MIB + 128 + 80


def test_a_workspace_counts_and_spills(tmp_path: Path) -> None:
    """Arrays within the budget are in memory; the next is a file that has no name."""
    with Workspace(1, tmp_path) as workspace:
        first = workspace.zeros((1024, 512), np.uint8)
        second = workspace.zeros((1024, 1024), np.uint8)
        assert not isinstance(first, np.memmap)
        assert isinstance(second, np.memmap)
        assert workspace.spilled == 2**20
        assert not second.any()
        second[0, 0] = 7
        assert second[0, 0] == 7
        assert not list(tmp_path.iterdir())
        workspace.give_back(first)
        assert not isinstance(workspace.zeros((1024, 1024), np.uint8), np.memmap)
