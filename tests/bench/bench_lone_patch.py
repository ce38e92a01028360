"""What a training step costs a processor with and without ``common/nn/lone_patch``, in one run.

The demo's CNN and student on one patch of 32 voxels a side, one thread, by turns. Prints a JSON line
for each; ``ratio`` is the processor time of PyTorch's own path over ours, the median over pairs.

    python -P tests/bench/bench_lone_patch.py [--pairs 5] [--patch 32]
"""

import argparse
import json
import statistics
import sys
import time

import torch
from torch import Tensor, nn

from stillroom.common.nn.lone_patch import LonePatchConv3d, quick_on_lone_patches
from stillroom.common.nn.student import LightSwin
from stillroom.common.nn.teacher import Teacher


def step(module: nn.Module, x: Tensor) -> float:
    """CPU seconds of a forward and a backward pass."""
    began = time.process_time()
    module.zero_grad(set_to_none=True)
    torch.stack([one.square().mean() for one in module(x).values()]).sum().backward()
    return time.process_time() - began


def plainly(module: nn.Module) -> None:
    """PyTorch's own choice again."""
    for one in module.modules():
        if type(one) is LonePatchConv3d:
            one.__class__ = nn.Conv3d


def main() -> int:
    """Run both networks by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--patch", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    heads = {"chambers": 3, "vessels": 2, "landmarks": 2}
    networks = {
        "cnn": Teacher("one", 2, in_channels=1, channels=(8, 16, 32, 48)),
        "student": LightSwin(1, heads, 24),
    }
    x = torch.randn(1, 1, given.patch, given.patch, given.patch)
    for name, module in networks.items():
        seconds: dict[str, list[float]] = {"plain": [], "halves": []}
        for pair in range(given.pairs + 1):
            for way, change in (("plain", plainly), ("halves", quick_on_lone_patches)):
                change(module)
                took = step(module, x)
                if pair:  # the first compiles kernels
                    seconds[way].append(took)
        pairs = zip(seconds["plain"], seconds["halves"], strict=True)
        found = {
            "network": name,
            "patch": given.patch,
            **{f"{way}_s": round(statistics.median(took), 4) for way, took in seconds.items()},
            "ratio": round(statistics.median(plain / ours for plain, ours in pairs), 2),
        }
        sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
