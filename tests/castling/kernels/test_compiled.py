import subprocess
import sys

import pytest
import torch
from torch import library

from castling.config import BlockConfig
from castling.kernels import linear_angular as native
from castling.operators.modules.linear_angular import LinearAngularAttention
from castling.operators.spec import LayerShape, TokenGrid


_COMPILED_AND_EAGER = """
import torch
from castling.config import BlockConfig, MaskSchedule
from castling.operators.modules.linear_angular import LinearAngularAttention
from castling.operators.spec import LayerShape, TokenGrid

seen = []

def backend(graph, _):
    seen.extend(str(node.target) for node in graph.graph.nodes)
    return graph

def run(layer, x):
    out = layer(x)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])]

for mask in (None, MaskSchedule(start_multiple=0.9)):
    torch.manual_seed(0)
    config = BlockConfig(
        operator="linear_angular", num_heads=2, head_size=16, conv_kernel=3, mask=mask
    )
    shape = LayerShape(block=config, embed_width=24, grid=TokenGrid(height=5, width=4))
    layer = LinearAngularAttention(shape).train()
    x = torch.randn(3, 20, 24, requires_grad=True)
    seen.clear()
    torch.compile(layer, backend=backend, fullgraph=True)(x)
    assert any("castling.mix_packed" in name for name in seen), seen
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for progress in torch.linspace(0.0, 0.5, 6) if mask else [0.0]:  # and nothing compiled anew
        if mask:
            layer.auxiliary.set_progress(float(progress))
        with torch.compiler.set_stance("default" if progress == 0.0 else "fail_on_recompile"):
            ours = run(compiled, x)
        for part, eager in zip(ours, run(layer, x), strict=True):
            torch.testing.assert_close(part, eager, rtol=1e-5, atol=1e-5)
print("equal")
"""


def test_a_compiled_layer_calls_the_kernel_and_is_the_eager_one() -> None:
    """In a process of its own: where shapes are checked at run time nothing can be compiled."""
    done = subprocess.run(
        [sys.executable, "-c", _COMPILED_AND_EAGER], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, in opcheck
@pytest.mark.parametrize("threshold", [None, 0.1])
def test_the_operator_keeps_torchs_rules(threshold: float | None) -> None:
    assert native.kernel(16, 16) is not None
    qkv = torch.randn(2, 7, 3, 2, 16, requires_grad=True)
    weight = torch.randn(2, 1, 3, 1, requires_grad=True)
    limit = None if threshold is None else torch.tensor(threshold)
    library.opcheck(torch.ops.castling.mix_packed, (qkv, weight, [0, 7, 1], limit))


def test_an_exported_layer_knows_torch_alone() -> None:
    config = BlockConfig(operator="linear_angular", num_heads=2, head_size=16, conv_kernel=3)
    shape = LayerShape(block=config, embed_width=24, grid=TokenGrid(height=5, width=4))
    layer = LinearAngularAttention(shape).eval()
    exported = torch.export.export(layer, (torch.randn(1, 20, 24),), strict=False)
    assert not any("castling" in str(node.target) for node in exported.graph.nodes)
