import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from measured_function import MeasuredFunction
from torch import Tensor

from castling.costs.count import measure_macs
from castling.costs.handles import FREE_OPERATIONS, HANDLES, product_macs


SQUARE, COLUMN = torch.zeros(37, 37), torch.zeros(41)


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: x @ x.transpose(-2, -1), 3 * 37 * 37 * 41),
        (lambda x: SQUARE @ x, 3 * 37 * 37 * 41),  # only the right operand has a batch
        (lambda x: x @ COLUMN, 3 * 37 * 41),
        (lambda x: COLUMN @ x.transpose(-2, -1), 3 * 37 * 41),
        (lambda x: x[0, 0] @ COLUMN, 37 * 41),
        (lambda x: x[0, 0].mv(COLUMN), 37 * 41),
        (lambda x: x[0, 0].mm(x[0, 1].t()), 37 * 37 * 41),
        (lambda x: torch.bmm(x[0], x[0].transpose(-2, -1)), 3 * 37 * 37 * 41),
        (lambda x: torch.einsum("bhnd,bhmd->bhnm", x, x), 3 * 37 * 37 * 41),
        (lambda x: torch.einsum("...nd,...md->...nm", x, x), 3 * 37 * 37 * 41),
        (lambda x: torch.einsum("nm,bhmd->bhnd", SQUARE, x), 3 * 37 * 37 * 41),
        (lambda x: torch.einsum("bhnd,bhne", x, x), 3 * 37 * 41 * 41),
        (lambda x: torch.einsum("bhnd->bdnh", x), 0),
    ],
)
def test_products_are_counted_to_the_last_mac(
    function: Callable[[Tensor], Tensor], macs: int
) -> None:
    assert measure_macs(MeasuredFunction(function), (3, 37, 41)) == macs


LETTERS = "abcd"


@given(
    operands=st.tuples(*[st.lists(st.sampled_from(LETTERS), unique=True, max_size=4)] * 2),
    sizes=st.fixed_dictionaries(dict.fromkeys(LETTERS, st.integers(1, 4))),
    data=st.data(),
)
def test_einsum_counts_the_multiplications_of_a_loop(
    operands: tuple[list[str], list[str]], sizes: dict[str, int], data: st.DataObject
) -> None:
    """Axes of one operand that the result lacks are summed before anything is multiplied."""
    left, right = operands
    every = sorted({*left, *right})
    kept = data.draw(st.lists(st.sampled_from(every), unique=True) if every else st.just([]))
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    shapes = [[sizes[axis] for axis in operand] for operand in operands]
    looped = [axis for axis in every if axis in kept or (axis in left and axis in right)]
    assert product_macs(equation, shapes) == math.prod(sizes[axis] for axis in looped)


def test_an_implicit_result_is_that_of_the_explicit_one() -> None:
    shapes = [(2, 3), (3, 5)]
    assert product_macs("ij,jk", shapes) == product_macs("ij,jk->ik", shapes) == 30


def test_broadcast_axes_of_an_ellipsis_take_the_larger_size() -> None:
    assert product_macs("...ij,...jk->...ik", [(7, 1, 2, 3), (4, 3, 5)]) == 7 * 4 * 30


def test_no_operator_is_both_counted_and_free() -> None:
    assert not FREE_OPERATIONS & set(HANDLES)
