"""How much cheaper ``predict`` is than an fp32 window at overlap 0.5 over the whole chest.

The network costs what the light student costs, but answers with a threshold of its input: so the
quick look finds a heart without training, and both ways can be compared voxel by voxel.

    python tests/bench/bench_predict.py [--size 180 180 150] [--patch 64] [--threads 1]
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from stillroom.client.predict.processor import choose_processor
from stillroom.client.predict.segmentation import Options, segment
from stillroom.client.release import Release
from stillroom.common.nn.student import build_student
from stillroom.common.study import Study


class Priced(nn.Module):
    """A threshold at 100 HU, at the price of a student."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.windows = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of ``student`` drowned in those of the threshold."""
        self.windows += 1
        heart = (x[:, :1] + 1) * 1000 - 1000 > 100
        outputs = self.student(x)
        for logits in outputs.values():
            logits.zero_()
            logits[:, :1] += ~heart
            logits[:, 1:2] += heart
        return outputs


def study_of(patch: int, feature_size: int) -> Study:
    """The demo's label types on a grid of 2 mm."""
    return Study.parse(
        {
            "study": {"name": "bench"},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [patch] * 3, "hu_window": [-1000, 1000]},
            "label": {
                "chambers": {"kind": "mask", "classes": ["LV", "RV", "LA", "RA", "myocardium"]},
                "vessels": {"kind": "mask", "classes": ["aorta", "pulmonary_artery"]},
                "landmarks": {"kind": "points", "names": ["RCC", "LCC", "NCC", "RCA", "LCA"]},
            },
            "model": {"student": {"arch": "light-swin", "feature_size": feature_size}},
            "stage": [{"name": "student", "recipe": "distil"}],
        }
    )


def chest(size: tuple[int, int, int]) -> sitk.Image:
    """A body of soft tissue with a heart of 55 mm radius, on 2 mm voxels."""
    k, j, i = np.indices(size[::-1], np.float32)
    x, y, z = (2 * (v - n / 2) for v, n in zip((i, j, k), size, strict=True))
    hu = np.full(size[::-1], -1000, np.int16)
    hu[(x / 165) ** 2 + (y / 120) ** 2 < 1] = 40
    hu[(x + 20) ** 2 + (y + 20) ** 2 + z**2 < 55**2] = 300
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((2, 2, 2))
    return image


def main() -> None:
    """Run both ways and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(180, 180, 150))
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--feature-size", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    study = study_of(arguments.patch, arguments.feature_size)
    network = Priced(build_student(study).eval())
    release = Release(study, "", "", network)
    image = chest(tuple(arguments.size))
    device = choose_processor("auto")
    result: dict[str, object] = {"size": list(arguments.size), "device": device.reason}
    masks = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = Options(device, Path(folder))
        plain = replace(ours, device=replace(device, bf16=False), coarse=False)
        for name, options in (("ours", ours), ("plain", plain)):
            network.windows = 0
            wall, cpu = time.perf_counter(), time.process_time()
            findings = segment(image, release, options)
            masks[name] = findings.masks["chambers"]
            result[name] = {
                "wall_s": round(time.perf_counter() - wall, 1),
                "cpu_s": round(time.process_time() - cpu, 1),
                "windows": network.windows,
                "steps_s": findings.seconds,
            }
            sys.stdout.write(json.dumps({name: result[name]}) + "\n")
            sys.stdout.flush()
    ratio = result["plain"]["cpu_s"] / result["ours"]["cpu_s"]  # type: ignore[index]
    result["times_cheaper_cpu"] = round(ratio, 2)
    result["agreement"] = round(float((masks["ours"] == masks["plain"]).mean()), 5)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
