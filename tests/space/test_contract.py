"""Every dimension is priced as it is built, and every operator is counted before a search."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from castling.blocks import parts
from castling.blocks.parts import BranchPart
from castling.config import BlockConfig, ModelConfig, RunConfig
from castling.costs.handles import FREE_OPERATIONS
from castling.errors import OperatorError
from castling.model import vit
from castling.model.backbone import backbone_config
from castling.operators import OPERATORS, OperatorSpec
from castling.operators.modules.softmax import SoftmaxAttention
from castling.operators.spec import LayerShape
from space.catalogue import catalogue
from space.contract import check_model, check_operators, dimension_problems
from space.cost import cost
from space.domain import Choice
from space.measure import measure_cost
from space.point import Dimension, Space


BASE = RunConfig(model=ModelConfig(image_size=(4, 4), patch_size=1, embed_width=24))


@pytest.mark.parametrize("target", list(catalogue()))
def test_every_dimension_is_priced_as_it_is_built(target: str) -> None:
    assert dimension_problems(catalogue()[target], BASE) == []


class Scaled(nn.Module):
    """A gain per channel and a product, of which a closed form may know or not."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.gain = nn.Linear(shape.embed_width, int(shape.block.mlp_ratio), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gain(x).mean(dim=-1, keepdim=True)


def gains(shape: LayerShape) -> int:
    return shape.embed_width * int(shape.block.mlp_ratio)


def products(shape: LayerShape) -> int:
    return shape.grid.num_tokens * gains(shape)


@pytest.mark.parametrize(
    ("part", "count", "sentence"),
    [
        (BranchPart(build=Scaled), 2, "closed-form parameters of block 0"),
        (BranchPart(build=Scaled, params=gains), 2, "closed-form MACs must be what is counted"),
        (
            BranchPart(build=Scaled, params=gains, macs=products),
            1,
            "different parts under one name, block",
        ),
    ],
    ids=["parameters", "MACs", "latency"],
)
def test_a_field_that_changes_the_block_unpriced_is_reported(
    part: BranchPart, count: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the block obeys the MLP's ratio, beside the MLP that is priced by it."""
    monkeypatch.setattr(parts, "BRANCH_PARTS", {"scaled": part})
    monkeypatch.setattr(vit, "BRANCH_PARTS", {"scaled": part})
    problems = dimension_problems(catalogue()["model.blocks.*.mlp_ratio"], BASE)
    assert sum(sentence in problem for problem in problems) == count


def test_a_dimension_that_makes_no_model_is_reported() -> None:
    dimension = Dimension(target="model.blocks.*.num_heads", domain=Choice((0, "many")))
    assert (
        "num_heads with angular: no value makes a model" in dimension_problems(dimension, BASE)[0]
    )


class EluAttention(SoftmaxAttention):
    """Softmax attention with an activation that castling has not met."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.elu(super().forward(x))


class CumulativeAttention(SoftmaxAttention):
    """Softmax attention with sums over the tokens, a multiply-add per entry for this test."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.cumsum(dim=1))


def entries(_: list[Any], outputs: list[Any]) -> int:
    """Return the number of entries of a traced result."""
    return math.prod(outputs[0].type().sizes())


def with_sums(shape: LayerShape) -> int:
    return SOFTMAX.macs(shape) + shape.grid.num_tokens * shape.embed_width


SOFTMAX = OPERATORS["softmax"]
ELU = replace(SOFTMAX, build=EluAttention)
SUMS = replace(SOFTMAX, build=CumulativeAttention, macs=with_sums, training_macs=with_sums)


def space_of(*operators: str) -> Space:
    return Space(
        name="contract",
        base=BASE,
        dimensions=(Dimension(target="model.blocks.*.operator", domain=Choice(operators)),),
    )


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (ELU, "operator new: no count is known for aten::elu; list what has no multiply-adds in"),
        (SUMS, "operator new: no count is known for aten::cumsum"),
        (replace(SOFTMAX, macs=lambda _: 7), "operator new: closed-form MACs must be what is"),
        (replace(SOFTMAX, training_macs=lambda _: 7), "closed-form MACs in training must be"),
        (replace(SOFTMAX, params=lambda _: 7), "operator new: closed-form parameters of block 0"),
        (
            replace(SUMS, handles={"aten::cumsum": entries, "aten::matmul": entries}),
            "operator new: counts aten::matmul in another way than castling",
        ),
    ],
    ids=["free", "handle", "macs", "training", "params", "conflict"],
)
def test_an_operator_that_is_not_what_it_declares_is_refused_before_a_search(
    spec: OperatorSpec, sentence: str
) -> None:
    with OPERATORS.temporarily("new", spec):
        check_operators(space_of("softmax"))
        with pytest.raises(OperatorError, match=re.escape(sentence)) as caught:
            check_operators(space_of("softmax", "new"))
        assert "\n" not in str(caught.value)
        assert caught.value.is_bad_input
        with pytest.raises(OperatorError):
            check_model(BASE.model.replace(blocks=(BlockConfig(operator="new"),)))


def test_an_operator_that_the_default_point_cannot_have_is_counted_elsewhere() -> None:
    narrow = replace(ELU, check=lambda shape: "must be 8" if shape.block.head_size != 8 else "")
    sizes = Dimension(target="model.blocks.*.head_size", domain=Choice((16, 8)))
    with OPERATORS.temporarily("new", narrow):
        space = space_of("softmax", "new")
        check_operators(space)  # no point has it
        with pytest.raises(OperatorError, match="operator new: no count is known for aten::elu"):
            check_operators(replace(space, dimensions=(*space.dimensions, sizes)))


@pytest.mark.parametrize("mlp", ["plain", "shrinking"])
def test_gated_layers_are_what_they_declare(mlp: str) -> None:
    gated = BlockConfig.from_data({"operator": "spvit_gated", "mlp": mlp})
    check_model(BASE.model.replace(blocks=(gated,)))


@pytest.mark.parametrize(
    "spec",
    [
        replace(ELU, free=frozenset({"aten::elu"})),
        replace(SUMS, handles={"aten::cumsum": entries}),
    ],
    ids=["free", "handle"],
)
def test_an_operator_says_what_it_needs_counted(spec: OperatorSpec) -> None:
    with OPERATORS.temporarily("new", spec):
        check_operators(space_of("softmax", "new"))
        model = BASE.model.replace(blocks=(BlockConfig(operator="new"),))
        assert measure_cost(model) == cost(model)
        check_model(backbone_config("vit_tiny_patch16_224", "new", image_size=32, depth=1))
    assert not {"aten::elu", "aten::cumsum"} & FREE_OPERATIONS


def test_two_operators_of_a_model_may_share_a_handle_but_not_differ() -> None:
    shared = replace(SUMS, handles={"aten::cumsum": entries})
    other = replace(SUMS, handles={"aten::cumsum": lambda *_: 0})
    with OPERATORS.temporarily("one", shared):
        with OPERATORS.temporarily("two", shared):
            blocks = tuple(BlockConfig(operator=name) for name in ("one", "two"))
            model = BASE.model.replace(blocks=blocks)
            assert measure_cost(model) == cost(model)
        with (
            OPERATORS.temporarily("two", other),
            pytest.raises(OperatorError, match="operator two: counts aten::cumsum in another way"),
        ):
            measure_cost(model)
