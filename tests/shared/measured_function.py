"""A function as a module whose cost can be measured."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class MeasuredFunction(nn.Module):
    """A function of one image that needs a parameter to be measured."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images * self.scale)
