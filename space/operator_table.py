"""The table of operators: what one layer of each costs; imports no torch."""

import math

from castling.config import BlockConfig
from castling.costs.cost import Cost
from castling.errors import ConfigError
from castling.operators import OPERATORS, TokenGrid
from castling.operators.spec import LayerShape


def operator_costs(num_tokens: int, width: int, num_heads: int) -> list[tuple[str, Cost, str]]:
    """Return name, cost of one layer and summary of every operator.

    Args:
        num_tokens: a square number; the grid is square, without a class token.
        width: embed and attention width.
        num_heads: heads; must divide the width.

    Raises:
        ConfigError: when the numbers do not fit together.
    """
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ConfigError("tokens", "must be a square number", num_tokens)
    if width % num_heads:
        raise ConfigError("heads", f"must divide the width {width}", num_heads)
    grid = TokenGrid(height=side, width=side)
    costs = []
    for name, spec in OPERATORS.items():
        block = BlockConfig(operator=name, num_heads=num_heads, head_size=width // num_heads)
        shape = LayerShape(block=block, embed_width=width, grid=grid)
        costs.append((name, spec.cost(shape), spec.summary))
    return costs
