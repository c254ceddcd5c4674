"""Every operator of the registry keeps the contract: a new one is tested by existing."""

import pytest

from castling.config import BlockConfig
from castling.costs.cost import Cost
from castling.operators import OPERATORS
from castling.operators.spec import LayerShape, TokenGrid
from castling.testing import OperatorContract


@pytest.mark.parametrize("name", list(OPERATORS))
class TestEveryOperator(OperatorContract):
    pass


def test_to_skip_costs_nothing() -> None:
    grid = TokenGrid(height=2, width=2)
    shape = LayerShape(block=BlockConfig(operator="skip"), embed_width=8, grid=grid)
    assert OPERATORS["skip"].cost(shape) == Cost(macs=0, params=0, training_macs=0)
