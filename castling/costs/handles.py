"""Counts of traced operations that fvcore misses, miscounts or rounds, and the free operations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from castling.errors import UncountedOperatorError


Handle = Callable[[list[Any], list[Any]], int]
"""From the traced inputs and outputs of an operation to its MACs."""


FREE_OPERATIONS = frozenset(
    {
        "aten::__or__", "aten::abs", "aten::add", "aten::amax", "aten::avg_pool2d",
        "aten::ceil", "aten::clamp_max", "aten::clamp_min", "aten::clone", "aten::col2im",
        "aten::cos", "aten::div", "aten::exp", "aten::expand_as", "aten::floor", "aten::gelu",
        "aten::hardswish", "aten::im2col", "aten::index_select", "aten::le",
        "aten::linalg_vector_norm", "aten::log", "aten::log_softmax", "aten::lt",
        "aten::max_pool2d", "aten::mean", "aten::meshgrid", "aten::mul", "aten::neg",
        "aten::ones_like", "aten::pad", "aten::pow", "aten::reciprocal", "aten::repeat",
        "aten::repeat_interleave", "aten::reshape_as", "aten::roll", "aten::rsqrt", "aten::rsub",
        "aten::sigmoid", "aten::sign", "aten::silu", "aten::sin", "aten::softmax", "aten::sqrt",
        "aten::square", "aten::std", "aten::sub", "aten::sum", "aten::tanh", "aten::threshold",
        "aten::unflatten", "aten::var", "aten::where",
    }
)  # fmt: skip
"""Operations without multiply-adds: elementwise, reductions, norms, data movement.

In-place forms, like `aten::add_`, are free too. An operator lists further free operations in its
`free`.
"""


def attention_macs(inputs: list[Any], _: list[Any]) -> int:
    """Return the MACs of q k^T and of its product with v; fvcore itself counts 0 for both."""
    query, key, value = (_sizes(tensor) for tensor in inputs[:3])
    *rows, num_queries, size = query
    return math.prod(rows) * num_queries * key[-2] * (size + value[-1])


def matmul_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Return one MAC per entry of the result and term of its sum.

    fvcore counts from the left operand alone: too little where only the right one has a batch,
    and an error for vectors.
    """
    return math.prod(_sizes(outputs[0])) * _sizes(inputs[0])[-1]


def einsum_macs(inputs: list[Any], _: list[Any]) -> int:
    """Return the product of the sizes of all axes that two operands share or keep.

    fvcore reads numpy's printed count, which has four digits.

    Raises:
        UncountedOperatorError: for three operands or more, whose MACs depend on their order.
    """
    shapes = [_sizes(tensor) for tensor in inputs[1].node().inputs()]
    equation = inputs[0].toIValue().replace(" ", "")
    if len(shapes) > 2:
        raise UncountedOperatorError([f"aten::einsum of {len(shapes)} operands ({equation})"])
    return product_macs(equation, shapes) if len(shapes) == 2 else 0


def product_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Return the MACs of an einsum equation over two operands of these shapes."""
    left, arrow, right = equation.partition("->")
    operands = [
        _axes(operand, len(shape)) for operand, shape in zip(left.split(","), shapes, strict=True)
    ]
    sizes: dict[str, int] = {}
    for axes, shape in zip(operands, shapes, strict=True):
        for axis, size in zip(axes, shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 1))
    shared = set(operands[0]) & set(operands[1])
    unsummed = (
        set(right) if arrow else set(sizes) - shared
    )  # without an arrow, shared axes are summed
    return math.prod(
        size for axis, size in sizes.items() if axis in unsummed | shared or axis.startswith(".")
    )


def _axes(operand: str, num_axes: int) -> list[str]:
    """Return the letters of an operand, those of an ellipsis named from the right: .1, .0."""
    before, ellipsis, after = operand.partition("...")
    missing = num_axes - len(before) - len(after) if ellipsis else 0
    return [*before, *(f".{index}" for index in reversed(range(missing))), *after]


def _sizes(tensor: Any) -> list[int]:
    return list(tensor.type().sizes())


def nothing(_: list[Any], __: list[Any]) -> int:
    """Return 0, for operations that are free under our convention."""
    return 0


HANDLES: Mapping[str, Handle] = {
    "aten::scaled_dot_product_attention": attention_macs,
    "aten::matmul": matmul_macs,
    "aten::mm": matmul_macs,
    "aten::mv": matmul_macs,
    "aten::einsum": einsum_macs,
    "aten::layer_norm": nothing,
    "aten::batch_norm": nothing,
    "aten::group_norm": nothing,
    "aten::instance_norm": nothing,
    "aten::adaptive_avg_pool2d": nothing,
    "aten::upsample_nearest2d": nothing,
    "aten::upsample_bilinear2d": nothing,
    "aten::upsample_bicubic2d": nothing,
    "aten::grid_sampler": nothing,
}
"""Handles that replace or extend fvcore's; those for 0 are operations that fvcore counts by
default."""
