"""Compiles layers with a living branch as one graph; prints density compiled and eager."""

import sys

import torch
from torch import nn

from castling.config import BlockConfig, MaskSchedule
from castling.operators.modules.linear_angular import LinearAngularAttention
from castling.operators.spec import LayerShape, TokenGrid


def main() -> None:
    """Compile the layer by the C kernel in float32, then by maps in bfloat16."""
    config = BlockConfig(operator="linear_angular", num_heads=2, head_size=16, mask=MaskSchedule())
    shape = LayerShape(block=config, embed_width=24, grid=TokenGrid(height=4, width=4))
    torch.manual_seed(0)
    layer: nn.Module = LinearAngularAttention(shape).eval()
    x = torch.randn(2, 16, 24)
    for precision in (torch.float32, torch.bfloat16):
        layer = layer.to(precision)
        torch.compiler.reset()
        with torch.no_grad():
            torch.compile(layer, backend="aot_eager", fullgraph=True)(x.to(precision))
            compiled = layer.auxiliary.density
            assert isinstance(compiled, torch.Tensor)
            layer(x.to(precision))
        sys.stdout.write(f"{float(compiled)} {float(layer.auxiliary.density)}\n")


if __name__ == "__main__":
    main()
