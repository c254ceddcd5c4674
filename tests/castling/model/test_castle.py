import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from castling.config import BlockConfig, MaskSchedule, ModelConfig
from castling.model.build import build
from castling.model.castle import castle, is_castled, set_progress
from castling.model.vit import CastlingViT
from castling.operators import OPERATORS
from castling.operators.modules.auxiliary import AuxiliaryBranch, branches
from castling.operators.spec import fits_anywhere


EVERYWHERE = [name for name, spec in OPERATORS.items() if spec.check is fits_anywhere]
"""The operators that serve every layer; those with rules have tests of their own."""


RISING = st.builds(
    MaskSchedule,
    shape=st.sampled_from(["linear", "cosine", "step"]),
    start_multiple=st.floats(0.0, 3.0),
    start=st.floats(0.0, 0.5),
    end=st.floats(0.5, 1.0),
    l1_weight=st.sampled_from([0.0, 0.1]),
)
BLOCKS = st.builds(
    BlockConfig,
    operator=st.sampled_from(EVERYWHERE),
    num_heads=st.integers(1, 3),
    head_size=st.integers(1, 6),
    conv_kernel=st.sampled_from([1, 3, 7]),
    conv_form=st.sampled_from(["tokens", "grid"]),
    conv_filters=st.sampled_from(["head", "channel"]),
    mask=st.none() | RISING,
    mlp_ratio=st.floats(0.1, 2.0),
    drop_path=st.sampled_from([0.0, 0.5]),
)
MODELS = st.builds(
    ModelConfig,
    image_size=st.tuples(st.sampled_from([2, 4, 6]), st.sampled_from([2, 4, 6])),
    channels=st.integers(1, 3),
    num_classes=st.integers(1, 5),
    patch_size=st.sampled_from([1, 2]),
    embed_width=st.integers(1, 12),
    pooling=st.sampled_from(["cls", "mean"]),
    qkv_bias=st.booleans(),
    blocks=st.lists(BLOCKS, min_size=1, max_size=3).map(tuple),
)
ALIVE = MaskSchedule(shape="constant", start_multiple=0.5)


def trained(config: ModelConfig, seed: int = 0) -> CastlingViT:
    """Build a model with weights far from their initial symmetry."""
    model = build(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def images_for(config: ModelConfig, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, config.channels, *config.image_size, generator=generator)


@torch.inference_mode()
def logits(model: CastlingViT) -> Tensor:
    return model(images_for(model.config))


@given(MODELS)
@settings(max_examples=100)
def test_once_the_masks_are_empty_the_logits_stay_bit_for_bit(config: ModelConfig) -> None:
    model = trained(config)
    set_progress(model, 1.0)
    castled = castle(model)
    assert torch.equal(logits(castled), logits(model.eval()))


@given(MODELS)
@settings(max_examples=50)
def test_no_trace_of_the_branch_is_left(config: ModelConfig) -> None:
    model = trained(config)
    castled = castle(model)
    assert is_castled(castled)
    assert not castled.training
    assert not any(isinstance(module, AuxiliaryBranch) for module in castled.modules())
    assert all(block.mask is None for block in castled.config.blocks)
    buffers = {name.rpartition(".")[2] for name, _ in castled.named_buffers()}
    assert buffers <= {"projection"}  # performer's random features stay
    names = [name for name, _ in [*castled.named_modules(), *castled.named_parameters()]]
    for name in [*names, *castled.state_dict()]:
        assert "auxiliary" not in name
        assert "progress" not in name
    ours, theirs = castled.state_dict(), build(config.castled(), seed=9).state_dict()
    assert ours.keys() == theirs.keys()
    weights = dict(model.named_parameters())
    assert weights.keys() == dict(castled.named_parameters()).keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in weights.items())


@given(MODELS, st.booleans())
@settings(max_examples=30)
def test_castling_twice_is_castling_once(config: ModelConfig, training: bool) -> None:
    once = castle(trained(config).train(training))
    twice = castle(once)
    assert twice is not once
    assert twice.config == once.config
    assert torch.equal(logits(twice), logits(once))


@given(MODELS, st.booleans())
@settings(max_examples=30)
def test_the_training_model_is_untouched(config: ModelConfig, training: bool) -> None:
    model = trained(config).train(training)
    set_progress(model, 0.25)
    before = copy.deepcopy(model.state_dict())
    thresholds = [branch.threshold for branch in branches(model)]
    castled = castle(model)
    with torch.no_grad():
        for parameter in castled.parameters():
            parameter.add_(1.0)
    assert model.training == training
    assert model.config == config
    assert [branch.threshold for branch in branches(model)] == thresholds
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_while_a_mask_is_not_empty_the_logits_change(pooling: str) -> None:
    # What makes the bit-for-bit test above worth something: the branch does count.
    model = trained(ModelConfig(pooling=pooling, blocks=(BlockConfig(mask=ALIVE),) * 2))
    set_progress(model, 1.0)
    assert not any(branch.is_empty for branch in branches(model))
    assert (logits(castle(model)) - logits(model.eval())).abs().max() > 1e-3


def test_one_mask_alive_in_one_layer_is_enough_to_change_the_logits() -> None:
    blocks = (BlockConfig(), BlockConfig(mask=ALIVE), BlockConfig(operator="softmax"))
    model = trained(ModelConfig(blocks=blocks)).eval()
    set_progress(model, 1.0)
    assert [branch.is_empty for branch in branches(model)] == [True, False]
    assert not torch.equal(logits(castle(model)), logits(model))
    branches(model)[1].threshold = 1.0
    assert torch.equal(logits(castle(model)), logits(model))


def operators_in_graph(model: CastlingViT) -> set[str]:
    """Return the names of the tensor operators in torch's trace of a forward pass."""
    traced = torch.jit.trace(model, images_for(model.config, 1), check_trace=False)
    return {node.kind() for node in traced.inlined_graph.nodes()}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("form", ["tokens", "grid"])
def test_the_graph_of_a_castled_model_has_no_softmax(form: str) -> None:
    block = BlockConfig(mask=ALIVE, conv_form=form, conv_kernel=3)
    model = trained(ModelConfig(blocks=(block,) * 2)).eval()
    assert "aten::softmax" in operators_in_graph(model)
    graph = operators_in_graph(castle(model))
    assert "aten::matmul" in graph
    assert not [name for name in graph if "softmax" in name or "attention" in name]
    # An empty mask skips the branch in the training model as well.
    set_progress(model, 1.0)
    for branch in branches(model):
        branch.threshold = 1.0
    assert operators_in_graph(model) == graph


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_graph_of_a_model_with_softmax_layers_keeps_them() -> None:
    model = trained(ModelConfig(blocks=(BlockConfig(), BlockConfig(operator="softmax"))))
    graph = operators_in_graph(castle(model))
    assert "aten::scaled_dot_product_attention" in graph
    assert "aten::softmax" not in graph


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_type_of_the_weights_is_kept(dtype: torch.dtype) -> None:
    model = trained(ModelConfig()).to(dtype)
    castled = castle(model)
    assert {parameter.dtype for parameter in castled.parameters()} == {dtype}
    assert torch.equal(castled.head.weight, model.head.weight)


def test_operators_without_a_branch_castle_too() -> None:
    # A new operator that forgets `mask` in what it uses still has to come through the switch.
    spec = replace(OPERATORS["softmax"], summary="a stand-in")
    with OPERATORS.temporarily("stand_in", spec):
        model = trained(ModelConfig(blocks=(BlockConfig(operator="stand_in"), BlockConfig())))
        set_progress(model, 1.0)
        assert torch.equal(logits(castle(model)), logits(model.eval()))
