"""A visual prompt: what is added to an image so that a frozen network does another task.

MoVL, Tian et al., arXiv 2405.07411: a prompt and a linear probe learn together on a frozen backbone.
The prompt starts at 0 as in ILM-VP, and as in its and PadPrompter's code it is a frame around the
image. Random and frequency label mapping are the baselines of the same code: no probe, and each
class is one of the backbone's own.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.nn.adapter import Adapted, Adapter, ground
from stillroom.common.recipes.adapt import AdaptOptions
from stillroom.common.recipes.prompt import PromptOptions
from stillroom.common.study import Stage, Study


class VisualPrompt(nn.Module):
    """Added to channel 0 of an image; only what may be other than 0 is a parameter.

    Args:
        shape: (D, H, W) of the images; an axis of one voxel has no border.
        pad: Width of the frame in voxels; None for everywhere.
    """

    index: Tensor

    def __init__(self, shape: tuple[int, int, int], *, pad: int | None) -> None:
        super().__init__()
        inside = np.zeros(shape, bool)
        if pad is not None:
            inside[tuple(slice(pad, n - pad) if n > 1 else slice(None) for n in shape)] = True
        index = torch.from_numpy(np.flatnonzero(~inside))
        self.shape = shape
        self.values = nn.Parameter(torch.zeros(len(index)))
        self.register_buffer("index", index, persistent=False)

    def image(self) -> Tensor:
        """What is added: ``(D, H, W)``."""
        empty = self.values.new_zeros(math.prod(self.shape))
        return empty.index_copy(0, self.index, self.values).view(self.shape)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``(B, Cin, D, H, W)`` with the prompt; a label map in channel 1 stays what it is."""
        return torch.cat([x[:, :1] + self.image(), x[:, 1:]], 1)


class LabelMap(nn.Module):
    """Which of a backbone's classes stands for which of a label's, one to one.

    Args:
        targets: Classes of the label, background included.
        sources: Classes of the backbone, at least as many.
        seed: Of the map by chance, the same at every site.
        counted: Go by how often each class is answered (FLM); counts are exchanged as shares. The
            first round has none yet and goes by chance.
    """

    frequency: Tensor

    def __init__(self, targets: int, sources: int, *, seed: int, counted: bool) -> None:
        super().__init__()
        self.chance = np.random.default_rng(seed).permutation(sources)[:targets]
        self.counted = counted
        self._counts = np.zeros((targets, sources))
        self._chosen = self.chance
        if counted:
            self.register_buffer("frequency", torch.zeros(targets, sources))

    def begin(self) -> None:
        """Choose by the frequencies that arrived, and count anew."""
        self._counts[:] = 0
        shares = self.frequency.cpu().numpy() if self.counted else self._counts
        self._chosen = greedy_map(shares) if shares.any() else self.chance

    def count(self, sources: Tensor, classes: Tensor) -> None:
        """Count what the backbone answers for each true class, and keep each class' shares.

        Args:
            sources: ``(B, S, D, H, W)``, the backbone's logits.
            classes: ``(B, D, H, W)`` int64, the truth.
        """
        if not self.counted:
            return
        targets, many = self._counts.shape
        pairs = classes * many + sources.detach().argmax(1)
        found = torch.bincount(pairs.flatten(), minlength=targets * many)
        self._counts += found.view(targets, many).cpu().numpy()
        seen = self._counts.sum(1) > 0
        shares = self._counts[seen] / self._counts[seen].sum(1, keepdims=True)
        self.frequency[torch.from_numpy(seen)] = torch.from_numpy(shares).to(self.frequency)

    @override
    def forward(self, sources: Tensor) -> Tensor:
        """Logits ``(B, T, D, H, W)`` of the label from those of the backbone."""
        return sources[:, torch.from_numpy(self._chosen).to(sources.device)]


def greedy_map(frequency: NDArray[Any]) -> NDArray[np.int64]:
    """Source class of each target class: the most frequent pair first, each class once (FLM).

    Args:
        frequency: ``(targets, sources)``, targets <= sources. Equal ones in order of their index.
    """
    left = np.array(frequency, float)
    chosen = np.full(len(left), -1)
    for _ in range(len(left)):
        target, source = np.unravel_index(left.argmax(), left.shape)
        chosen[target] = source
        left[target, :] = -1
        left[:, source] = -1
    return chosen


class PromptAdapter(Adapter):
    """What is exchanged: a head, or a mapping in its place, and the prompt where it is shared.

    Args:
        label: What it learns.
        outputs: Classes, background included.
        backbone: What it will read.
        reading: Passed on to the backbone's ``features``.
        options: Of the prompt.
        shape: (D, H, W) of a patch.
        sources: Classes that the backbone itself knows; only for a mapping.
        seed: Of a mapping by chance.
    """

    def __init__(
        self,
        label: str,
        outputs: int,
        *,
        backbone: nn.Module,
        reading: Mapping[str, int],
        options: PromptOptions,
        shape: tuple[int, int, int],
        sources: int,
        seed: int,
    ) -> None:
        super().__init__(label, outputs, backbone=backbone, reading=reading)
        self.options, self.shape = options, shape
        self.mapping: LabelMap | None = None
        if options.mapping != "probe":
            del self.heads
            counted = options.mapping == "frequency"
            self.mapping = LabelMap(outputs, sources, seed=seed, counted=counted)
        self.prompt = self.fresh() if options.share else None

    def fresh(self) -> VisualPrompt:
        """A prompt that changes nothing yet."""
        pad = self.options.pad if self.options.extent == "border" else None
        return VisualPrompt(self.shape, pad=pad)

    @override
    def read(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """What head or mapping reads: the decoder's map, or the backbone's own logits.

        Gradients pass the backbone on their way to the prompt, and none stays in it.
        """
        network: Any = backbone
        features = network.features(x, **self.reading)
        if self.mapping is None:
            found: Tensor = features.decoder
            return found
        return torch.cat(list(network.logits(features).values()), 1)

    def answer(self, found: Tensor) -> Tensor:
        """Logits ``(B, outputs, D, H, W)`` from what was read."""
        last: nn.Module = self.heads[self.label] if self.mapping is None else self.mapping
        logits: Tensor = last(found)
        return logits

    @override
    def forward(self, backbone: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Logits of ``x`` as it is, without the prompt."""
        return {self.label: self.answer(self.read(backbone, x))}


class Prompted(Adapted):
    """Backbone, adapter and prompt as one network that predicts.

    Args:
        backbone: Frozen, in evaluation mode.
        adapter: Learns.
        prompt: Learns too: the adapter's own, or one that never leaves the site.
    """

    adapter: PromptAdapter

    def __init__(self, backbone: nn.Module, adapter: PromptAdapter, prompt: VisualPrompt) -> None:
        super().__init__(backbone, adapter)
        self.prompt = prompt

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, outputs, D, H, W)`` per label for ``x`` ``(B, Cin, D, H, W)``."""
        return self.adapter(self.backbone, self.prompt(x))


def build_prompt_adapter(study: Study, stage: Stage) -> PromptAdapter:
    """The stage's adapter with fresh weights and a prompt at 0."""
    if stage.label is None:
        raise ValueError(f"stage {stage.name} has no label")
    below = study.stage_named(stage.backbone or "")
    known = study.predicted_labels(below)
    x, y, z = study.volume.patch
    return PromptAdapter(
        stage.label,
        1 + len(study.label[stage.label].classes),
        **ground(study, stage),
        options=stage.chosen(AdaptOptions).prompt,
        shape=(z, y, x),
        sources=sum(1 + len(study.label[one].classes) for one in known),
        seed=study.study.seed,
    )
