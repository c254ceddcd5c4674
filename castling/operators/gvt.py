"""GvT's attention: queries and keys from a graph convolution over the grid, heads that talk.

GvT's attention between graph convolutions, with heads that talk.

Source: Shan and Chen, GvT: A Graph-based Vision Transformer with Talking-Heads Utilizing
Sparsity, Trained from Scratch on Small Datasets, 2024. Tokens are the nodes of a graph A whose
edges join neighbours on the grid, weighted by likeness; D is the diagonal of its row sums, T
(head, head) a learned mixing. With * elementwise and A_I the 8-neighbourhood, for head i:

    A   = (A_I + I) * softmax_j(cos(x_i, x_j))
    x_q = D^-1/2 A D^-1/2 x W_q,  x_k = D^-1/2 A D^-1/2 x W_k
    S_i = softmax(x_q x_k^T / sqrt(d))
    R_i = sum_j T_ij S_j                           talking heads
    y_i = R_i (x W_v)                              the second graph convolution

and y's heads are merged and projected. x and the result are (batch, token, channel).

There is no released code. The paper's word is cosine distance, here it is the similarity:
like neighbours weigh more. Its softmax is over all tokens, also those without an edge. Its
talking heads select entries by bilinear pooled features; here T is a plain matrix, at first
the identity. Its second convolution is D^-1/2 R D^-1/2 x W_v + x; rows of S sum to one, so D
would be one number per head, sum_j T_ij, which W_v absorbs and which may be zero, and + x is
the block's: both are left out. A class token, of which it does not speak, is a neighbour of
every token. It pools the graph between blocks; our blocks keep their tokens, so the option
`pool` instead averages the inputs of keys and values, x after the graph convolution and x, over
pool x pool cells; class tokens stay. Tokens of norm zero have cosine zero.

Cost per layer, with N tokens, M of them left after pooling, embed width C and attention width
A = h d: 2 N^2 C (cosines and graph convolution, as dense products) + 2 (N + M) C A + 2 N M A
+ h^2 N M (talking heads) MACs.
"""

from pydantic import Field

from castling.config import Config
from castling.config.limits import LARGEST_SIDE
from castling.operators.spec import (
    OPERATORS,
    Imported,
    LayerShape,
    OperatorSpec,
    projection_params,
)


LARGEST_GRAPH = 4_096
"""Tokens of a graph: its edges, all pairs of them, are held in memory."""


class GvtOptions(Config):
    """The options of `gvt`."""

    pool: int = Field(default=1, ge=1, le=LARGEST_SIDE)
    """Side of the grid cells whose keys and values are averaged; must divide the grid."""


def pool_side(shape: LayerShape) -> int:
    """Return the side of the cells that are averaged for keys and values."""
    return GvtOptions.from_data(shape.block.options).pool


def _check(shape: LayerShape) -> str:
    pool, grid = pool_side(shape), shape.grid
    if grid.height % pool or grid.width % pool:
        return f"must have an option pool that divides the grid of {grid.height} x {grid.width}"
    if grid.num_tokens > LARGEST_GRAPH:
        return f"must be one without a graph of all tokens: here they are over {LARGEST_GRAPH:,}"
    return ""


def _macs(shape: LayerShape) -> int:
    block, grid, width = shape.block, shape.grid, shape.embed_width
    tokens = grid.num_tokens
    pooled = grid.num_prefix + grid.height * grid.width // pool_side(shape) ** 2
    graph = 2 * tokens**2 * width
    projections = 2 * (tokens + pooled) * width * block.attention_width
    attention = tokens * pooled * (2 * block.attention_width + block.num_heads**2)
    return graph + projections + attention


def _params(shape: LayerShape) -> int:
    return projection_params(shape) + shape.block.num_heads**2


OPERATORS.add(
    "gvt",
    OperatorSpec(
        summary="GvT: queries and keys from a graph convolution over the grid, talking heads",
        source="Shan and Chen, GvT: A Graph-based Vision Transformer, 2024",
        family="quadratic",
        build=Imported("castling.operators.modules.gvt:GraphAttention"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=GvtOptions,
        check=_check,
    ),
)
