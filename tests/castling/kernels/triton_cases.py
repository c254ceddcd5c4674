"""Compares the Triton kernels with the formula, in a process of its own: python triton_cases.py.

On the CPU in Triton's interpreter (TRITON_INTERPRET=1), with --device cuda on a GPU. Prints a line
of JSON per case: name, and the relative errors of the output and of every gradient.
"""

import argparse
import json

import torch
import torch.nn.functional as F
from torch import Tensor

from castling.kernels import fused
from castling.kernels.linear_angular import ConvolutionGrid
from castling.operators.modules.linear_angular import linear_angular


Case = tuple[int, int, int, int, int, int, int, bool, bool, torch.dtype]
QUICK: dict[str, Case] = {  # prefix, height, width, heads, size, down, across, per channel, added
    "one-token": (0, 1, 1, 1, 16, 9, 1, False, True, torch.float32),
    "odd-tile": (0, 70, 1, 2, 16, 3, 1, False, False, torch.float32),
    "class-token-grid": (1, 9, 8, 2, 24, 3, 3, True, True, torch.float32),
    "two-prefix-tall-filter": (2, 3, 11, 1, 20, 1, 5, True, False, torch.float32),
    "size-96-one-tap": (1, 5, 5, 1, 96, 1, 1, False, True, torch.float32),
    "small-size": (0, 40, 1, 3, 5, 5, 1, False, True, torch.float32),
    "bfloat16": (0, 10, 7, 1, 32, 3, 3, False, True, torch.bfloat16),
    "float16": (0, 10, 7, 1, 32, 3, 3, False, True, torch.float16),
}
THOROUGH: dict[str, Case] = {
    "several-programs": (0, 1100, 1, 2, 48, 9, 1, True, True, torch.float32),
    "size-64": (1, 14, 14, 3, 64, 9, 1, False, True, torch.float32),
    "size-80-grid": (1, 14, 14, 2, 80, 5, 5, True, False, torch.float32),
    "size-128": (0, 65, 1, 1, 128, 3, 1, False, True, torch.float32),
    "bfloat16-64": (1, 14, 14, 2, 64, 7, 7, False, True, torch.bfloat16),
    "float16-64": (1, 14, 14, 2, 64, 9, 1, True, True, torch.float16),
}


def formula(qkv: Tensor, weight: Tensor, added: Tensor | None, grid: ConvolutionGrid) -> Tensor:
    """Return the layer by torch's operations; (batch, token, head, size)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    flat = v.transpose(1, 2).flatten(2)
    image = flat[:, grid.prefix :].unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
    filters = weight.repeat_interleave(flat.shape[2] // weight.shape[0], dim=0)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    local = F.conv2d(image, filters, padding=padding, groups=flat.shape[2]).flatten(2)
    local = torch.cat([torch.zeros_like(flat[:, : grid.prefix]), local.transpose(1, 2)], dim=1)
    mixed = linear_angular(q, k, v, v, added).transpose(1, 2)
    return mixed + local.unflatten(2, mixed.shape[2:])


def errors(case: Case, device: str) -> list[float]:
    """Return the relative errors of the output and of the gradients, against float64."""
    prefix, height, width, heads, size, down, across, per_channel, has_added, dtype = case
    torch.manual_seed(0)
    tokens, grid = (
        prefix + height * width,
        ConvolutionGrid(prefix=prefix, height=height, width=width),
    )
    qkv = torch.randn(2, tokens, 3, heads, size)
    qkv[:, tokens // 2, :2] = 0.0  # a row without a direction
    inputs = [qkv.to(dtype), torch.randn(heads * size if per_channel else heads, 1, down, across)]
    if has_added:
        inputs.append(torch.randn(2, tokens, heads, size).transpose(1, 2).to(dtype))
    ours = [x.to(device).requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    out = fused.mix_added(ours[0], ours[1], ours[2] if has_added else None, grid)
    wanted = formula(exact[0], exact[1], exact[2] if has_added else None, grid)
    probe = torch.randn(out.shape).to(dtype)
    got = [out, *torch.autograd.grad(out, ours, probe.to(device))]
    right = [wanted, *torch.autograd.grad(wanted, exact, probe.double())]
    pairs = zip(got, right, strict=True)
    return [((a.cpu() - b).norm() / b.norm().clamp_min(1e-9)).item() for a, b in pairs]


def main() -> None:
    """Print the errors of every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--thorough", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, case in (THOROUGH if arguments.thorough else QUICK).items():
        print(json.dumps([name, errors(case, arguments.device)]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
