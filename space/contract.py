"""Compares closed forms with counts: of operators before a search, of dimensions in the tests."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from random import Random
from typing import TypeAlias

import torch

from castling.config import OPERATOR_FIELDS, Architecture, BackboneConfig, ModelConfig, RunConfig
from castling.costs.cost import Cost
from castling.errors import (
    ConfigError,
    CostMismatchError,
    OperatorError,
    UncountedOperatorError,
)
from castling.model.check import canonical
from castling.model.pieces import Part, vit_parts
from castling.operators import OPERATORS
from space.cost import cost
from space.decode import decode, operators_of
from space.domain import Value
from space.feasible import default_point
from space.measure import measure_cost
from space.point import Dimension, Point, Space


Models: TypeAlias = Mapping[Value, Architecture]
"""The models of one dimension's values."""
NUM_DRAWS = 16
"""Number of random points to try for an operator that does not fit the default point."""
QUANTITIES = {"macs": "MACs", "params": "parameters", "training_macs": "MACs in training"}


def check_operators(space: Space) -> None:
    """Count once each operator that a space may choose, before anything trains.

    An operator is counted in the space's default point if it fits there, in every block or in
    one; otherwise in one of a few points drawn at random.

    Raises:
        OperatorError: when an operation has no count, or a closed form is not what is counted.
    """
    chosen = [dim for dim in space.dimensions if dim.target.is_operator]
    offered = {str(value) for dim in chosen for value in dim.domain.extremes()}
    for operator in sorted(offered or operators_of(space, default_point(space))):
        for point in _points_with(space, operator):
            try:
                model = decode(space, point).model
            except ConfigError:  # the operator does not fit there
                continue
            check_model(model, [operator])
            break


def _points_with(space: Space, operator: str) -> Iterator[Point]:
    """Yield points of a space with an operator in all blocks, or in those of one name."""
    chosen = [dim for dim in space.dimensions if dim.target.is_operator]
    names = [name for dim in chosen for name in space.names(dim)]
    default, rng = default_point(space), Random(0)
    yield default | dict.fromkeys(names, operator)
    yield from (default | {name: operator} for name in names)
    yield from (space.sample(rng) | dict.fromkeys(names, operator) for _ in range(NUM_DRAWS))


def check_model(model: Architecture, operators: Iterable[str] | None = None) -> None:
    """Compare the closed forms of a model's operators, or of some of them, with a count.

    Raises:
        OperatorError: when an operation has no count, or a closed form is not what is counted.
    """
    present = {block.operator: block for block in model.blocks}
    for operator in sorted(present.keys() if operators is None else present.keys() & {*operators}):
        if isinstance(model, ModelConfig):
            _check_counts(model.replace(blocks=(present[operator],)), operator)
        else:
            _check_counts(model, operator)


def _check_counts(model: Architecture, operator: str) -> None:
    mend = "mend macs, params and training_macs of its OperatorSpec"
    try:
        measured = measure_cost(model)
    except UncountedOperatorError as error:
        reason = f"no count is known for {', '.join(error.operators)}"
        fix = (
            "list what has no multiply-adds in `free` of its OperatorSpec, and give the counts of "
            "other operations in `handles`"
        )
        raise OperatorError(operator, reason, fix) from None
    except CostMismatchError as error:
        raise OperatorError(operator, str(error), mend) from None
    for problem in _differences(cost(model), measured):
        raise OperatorError(operator, problem, mend)


def _differences(closed: Cost, measured: Cost) -> Iterator[str]:
    for name, words in QUANTITIES.items():
        expected, counted = getattr(closed, name), getattr(measured, name)
        if expected != counted:
            yield f"closed-form {words} must be what is counted, got {expected:,} and {counted:,}"


def dimension_problems(dimension: Dimension, base: RunConfig) -> list[str]:
    """Return a sentence for each value of a dimension whose closed form is wrong.

    With every operator that uses the dimension and at every extreme of its domain, the closed
    form must be what is counted, and the names of the parts that a `LatencyTable` times must
    differ where the parts do.

    Args:
        dimension: of the catalogue, or one that is to join it.
        base: the config whose other fields the models have; its model is a CastlingViT.
    """
    space = Space(name="contract", base=base, dimensions=(dimension,))
    problems = []
    for operator in _users(dimension, base):
        models = dict(_models(space, operator))
        wrong = [*_unpriced(models)] if models else [("", "no value makes a model")]
        wrong = wrong or [*_same_names(models)]
        problems += [f"{dimension.target}{where} with {operator}: {what}" for where, what in wrong]
    return problems


def _unpriced(models: Models) -> Iterator[tuple[str, str]]:
    """Yield the values, and what is wrong, of models that do not cost what is counted."""
    for value, model in models.items():
        try:
            wrong = list(_differences(cost(model), measure_cost(model)))
        except (CostMismatchError, UncountedOperatorError) as error:
            wrong = [str(error)]
        yield from ((f" = {value!r}", problem) for problem in wrong)


def _users(dimension: Dimension, base: RunConfig) -> list[str]:
    """Return the operators to try a dimension with: those that use its field, else the base's."""
    target = dimension.target
    if target.is_per_block and target.block_steps[0] in OPERATOR_FIELDS | {"options"}:
        return [name for name in OPERATORS if target.is_used_by(name)]
    return [base.model.blocks[0].operator]


def _models(space: Space, operator: str) -> Iterator[tuple[Value, Architecture]]:
    """Yield the extremes of a space's one dimension, and the models that the operator fits."""
    [dimension] = space.dimensions
    for value in dimension.domain.extremes():
        try:
            blocks = tuple(block.replace(operator=operator) for block in space.base.model.blocks)
            base = space.base.replace(model=space.base.model.replace(blocks=blocks))
            alone = Space(name=space.name, base=base, dimensions=space.dimensions)
            yield value, decode(alone, dict.fromkeys(alone.domains, value)).model
        except ConfigError:  # the operator does not serve these layers
            continue


def _same_names(models: Models) -> Iterator[tuple[str, str]]:
    """Yield the values, and what is wrong, of models with different parts under one name."""
    for (value, model), (other, changed) in combinations(models.items(), 2):
        if isinstance(model, BackboneConfig) or isinstance(changed, BackboneConfig):
            continue  # the names of its layers hold the whole choice
        first, second = _parts(model), _parts(changed)
        for name in first.keys() & second.keys():
            if not _same(first[name], second[name]):
                problem = f"the latency table times different parts under one name, {name}"
                yield f" = {value!r} and {other!r}", problem


def _parts(model: ModelConfig) -> dict[str, Part]:
    """Return the timed parts of a model's stem and first block, by name."""
    alone = canonical(model.replace(blocks=model.blocks[:1]).castled())
    assert isinstance(alone, ModelConfig)
    return {part.name: part for part in vit_parts(alone)}


def _same(one: Part, other: Part) -> bool:
    """Return whether parts have the same parameters and, with equal values, compute alike."""
    shapes, outputs = [], []
    for part in (one, other):
        [piece] = part.take_apart(torch.device("cpu")).pieces
        inputs = torch.linspace(-1.0, 1.0, piece.arguments[0].numel())
        state = piece.module.eval().state_dict()
        shapes.append({name: tuple(tensor.shape) for name, tensor in state.items()})
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.copy_(torch.linspace(-0.5, 0.5, tensor.numel()).view(tensor.shape))
        with torch.inference_mode():
            outputs.append(piece.module(inputs.view(piece.arguments[0].shape)))
    return shapes[0] == shapes[1] and torch.equal(*outputs)
