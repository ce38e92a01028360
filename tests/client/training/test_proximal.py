"""The proximal term is the gradient that autograd finds for the whole of it."""

import copy

import torch
from torch import Tensor, nn

from stillroom.client.training.proximal import Proximal


class Heads(nn.Module):
    """A shared layer and two heads, of which a step may use one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 3)
        self.first, self.second = nn.Linear(3, 1), nn.Linear(3, 1)

    def loss(self, x: Tensor, head: str) -> Tensor:
        """Something to minimise."""
        return getattr(self, head)(self.trunk(x).tanh()).square().mean()


def test_steps_are_those_of_the_full_term() -> None:
    """Over several steps, a head that a step leaves out included once it has moved."""
    torch.manual_seed(5)
    ours = Heads().double()
    theirs = copy.deepcopy(ours)
    start = [p.detach().clone() for p in theirs.parameters()]
    pull, mu = Proximal(ours, 0.3), 0.3
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (ours, theirs)]

    for head in ("first", "first", "second", "first"):
        x = torch.randn(6, 4, dtype=torch.float64)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        ours.loss(x, head).backward()
        pull.add()
        distance = sum(
            (p - s).square().sum() for p, s in zip(theirs.parameters(), start, strict=True)
        )
        (theirs.loss(x, head) + mu / 2 * distance).backward()
        for optimiser in optimisers:
            optimiser.step()

        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_what_no_loss_reached_is_left_alone() -> None:
    """No gradient appears, so not even weight decay touches it."""
    module = Heads()
    pull = Proximal(module, 1.0)

    module.loss(torch.ones(2, 4), "first").backward()
    pull.add()

    assert module.second.weight.grad is None
    assert module.first.weight.grad is not None
