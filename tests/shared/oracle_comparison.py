"""An operator's module against its literal oracle: same numbers in, values and gradients out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from castling.operators.spec import LayerShape


Oracle = Callable[[nn.Module, LayerShape, Tensor], Tensor]


def random_input(layer: LayerShape, dtype: torch.dtype, batch: int = 2) -> Tensor:
    """Return tokens (batch, token, channel), the same at every call but for rounding."""
    generator = torch.Generator().manual_seed(11)
    shape = (batch, layer.grid.num_tokens, layer.embed_width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def heads_of(weights: dict[str, Tensor], layer: LayerShape, image: Tensor) -> list[list[Tensor]]:
    """Return q, k and v of every head, each (token, size)."""
    qkv = F.linear(image, weights["qkv.weight"], weights.get("qkv.bias"))
    width, size = layer.block.attention_width, layer.block.head_size
    parts = [part.split(size, dim=1) for part in qkv.split(width, dim=1)]
    return [list(head) for head in zip(*parts, strict=True)]


def values_and_gradients(output: Tensor, x: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Return the output and the gradients of a random projection of it."""
    generator = torch.Generator().manual_seed(13)
    probe = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad((output * probe).sum(), [x, *parameters])
    return {"output": output.detach(), **dict(zip(("input", *names), gradients, strict=True))}


def relative_error(got: Tensor, expected: Tensor, smallest_scale: float = 1e-3) -> float:
    """Return the largest difference as a fraction of the largest expected number."""
    scale = expected.double().abs().max().clamp_min(smallest_scale)
    return float(((got.double() - expected.double()).abs().max() / scale).detach())


def compare_with_oracle(
    built: Callable[[LayerShape, torch.dtype], nn.Module],
    oracle: Oracle,
    layer: LayerShape,
    dtype: torch.dtype,
    tolerance: float,
    smallest_scale: float = 1e-3,
) -> None:
    """Compare the module in `dtype` with the oracle in float64 on the same rounded numbers."""
    module = built(layer, dtype)
    x = random_input(layer, dtype).requires_grad_()
    exact_module = built(layer, dtype).double()
    exact_x = x.detach().double().requires_grad_()
    got = values_and_gradients(module(x), x, module)
    expected = values_and_gradients(oracle(exact_module, layer, exact_x), exact_x, exact_module)
    for name, tensor in got.items():
        assert tensor.dtype == dtype, name
        assert torch.isfinite(tensor).all(), name
        assert relative_error(tensor, expected[name], smallest_scale) < tolerance, name
