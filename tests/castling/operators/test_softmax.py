import pytest
import torch
from timm.layers import Attention

from castling.config import BlockConfig
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.softmax import SoftmaxAttention
from castling.operators.reference import linear_angular as reference
from castling.operators.spec import LayerShape


def layer(heads: int, size: int, embed: int, tokens: int, *, bias: bool = True) -> LayerShape:
    block = BlockConfig(operator="softmax", num_heads=heads, head_size=size)
    return LayerShape(
        block=block, embed_width=embed, grid=TokenGrid(height=1, width=tokens), qkv_bias=bias
    )


@pytest.mark.parametrize(("heads", "size"), [(1, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_equals_the_literal_definition(heads: int, size: int, tokens: int) -> None:
    torch.manual_seed(0)
    module = SoftmaxAttention(layer(heads, size, 4, tokens)).double()
    x = torch.randn(2, tokens, 4, dtype=torch.float64)
    images = []
    for image in module.qkv(x):
        q, k, v = image.split(heads * size, dim=1)
        columns = [slice(head * size, (head + 1) * size) for head in range(heads)]
        images.append(
            torch.cat(
                [reference.masked_softmax(q[:, c], k[:, c], v[:, c], 0.0) for c in columns], dim=1
            )
        )
    torch.testing.assert_close(module(x), module.proj(torch.stack(images)))


@pytest.mark.parametrize("bias", [True, False])
def test_loads_the_weights_of_timm_and_computes_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    theirs = Attention(12, num_heads=3, qkv_bias=bias)
    ours = OPERATORS["softmax"].build(layer(3, 4, 12, 9, bias=bias))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 9, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
