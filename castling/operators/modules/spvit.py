"""The module of the operator `spvit`; castling.operators.spvit has the formula."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.spec import LayerShape
from castling.operators.spvit import options_of


class Bottleneck(nn.Module):
    """The bottleneck convolution: scores and batch norm, applied to weights of another module."""

    def __init__(self, shape: LayerShape, kernel: int) -> None:
        super().__init__()
        block, options = shape.block, options_of(shape)
        self.grid, self.kernel, self.alpha = shape.grid, kernel, options.alpha
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.scores = nn.Parameter(torch.ones(self.num_heads, kernel**2))
        self.norm = nn.BatchNorm2d(self.head_size)

    def convolve(
        self,
        x: Float[Tensor, "batch token channel"],
        v: Float[Tensor, "attention channel"],
        proj: nn.Linear,
    ) -> Float[Tensor, "batch token channel"]:
        """Convolve the grid with the weights of a value and an output projection."""
        self.grid.check(x.shape[1])
        height, width = self.grid.height, self.grid.width
        prefix, image = x.split([self.grid.num_prefix, height * width], dim=1)
        image = image.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        shares = self._shares()
        hidden = F.conv2d(image, self._inward(shares, v), padding=self.kernel // 2)
        hidden = self.norm(hidden).relu().flatten(2).transpose(1, 2)
        y = F.linear(hidden, self._outward(shares, proj.weight), proj.bias)
        return torch.cat([prefix.to(y.dtype), y], dim=1)

    def _shares(self) -> Float[Tensor, "head offset"]:
        """Return p in at least float32, as dividing by alpha magnifies roundings."""
        scores = self.scores.to(torch.promote_types(self.scores.dtype, torch.float32))
        return (scores / self.alpha).softmax(dim=0).to(self.scores.dtype)

    def _inward(
        self, shares: Float[Tensor, "head offset"], v: Float[Tensor, "attention channel"]
    ) -> Float[Tensor, "size channel kernel kernel"]:
        slices = v.unflatten(0, (self.num_heads, self.head_size))
        kernels = (slices.unsqueeze(-1) * shares[:, None, None]).sum(dim=0)
        return kernels.unflatten(-1, (self.kernel, self.kernel))

    def _outward(
        self, shares: Float[Tensor, "head offset"], proj: Float[Tensor, "channel attention"]
    ) -> Float[Tensor, "channel size"]:
        slices = proj.unflatten(1, (self.num_heads, self.head_size))
        return (slices * shares.sum(dim=1)[:, None]).sum(dim=1)


class BottleneckConvolution(Bottleneck):
    """A bottleneck convolution made of attention weights, SPViT's candidates below attention.

    The formula and its costs stand in `castling.operators.spvit`.
    """

    def __init__(self, shape: LayerShape, kernel: int) -> None:
        super().__init__(shape, kernel)
        width = shape.block.attention_width
        self.v = nn.Linear(shape.embed_width, width, bias=False)
        self.proj = nn.Linear(width, shape.embed_width)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Convolve the grid; shapes (batch, token, channel) in and out."""
        return self.convolve(x, self.v.weight, self.proj)


def conv1(shape: LayerShape) -> BottleneckConvolution:
    """Return the 1x1 convolution of a layer."""
    return BottleneckConvolution(shape, 1)


def conv3(shape: LayerShape) -> BottleneckConvolution:
    """Return the 3x3 convolution of a layer."""
    return BottleneckConvolution(shape, 3)
