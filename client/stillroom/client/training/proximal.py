"""FedProx: sites pulled back to the model that they all started from."""

import torch
from torch import Tensor, nn


class Proximal:
    """The proximal term of a round, as its gradient.

    Li et al. 2020 (arXiv:1812.06127), equation 2: mu/2 ||w - w_global||² is added to the loss of
    every step. Its gradient mu (w - w_global) is added instead: the same step without a graph.

    Args:
        module: Holds the round's global weights; they are copied.
        mu: > 0.
    """

    def __init__(self, module: nn.Module, mu: float) -> None:
        self._mu = mu
        self._start = [(p, p.detach().clone()) for p in module.parameters() if p.requires_grad]
        self._moved: set[Tensor] = set()

    @torch.no_grad()
    def add(self) -> None:
        """Add the term to the gradients that the step's losses left.

        A parameter that no loss has reached in this round is where it started, so the term is
        zero there; its gradient stays None, and the optimiser leaves the parameter alone.
        """
        for parameter, start in self._start:
            if parameter.grad is None:
                if parameter not in self._moved:
                    continue
                parameter.grad = torch.zeros_like(parameter)
            self._moved.add(parameter)
            parameter.grad.add_(parameter - start, alpha=self._mu)
