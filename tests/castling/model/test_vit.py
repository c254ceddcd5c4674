import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings, strategies as st
from timm.models.vision_transformer import VisionTransformer

from castling.config import BlockConfig, MaskSchedule, ModelConfig
from castling.errors import ConfigError
from castling.model.backbone import convert_backbone
from castling.model.build import build
from castling.model.castle import set_progress
from castling.model.vit import CastlingViT
from castling.operators import OPERATORS
from castling.operators.modules.auxiliary import branches
from castling.operators.spec import fits_anywhere, layer_shapes


EVERYWHERE = [name for name, spec in OPERATORS.items() if spec.check is fits_anywhere]
"""The operators that serve every layer; those with rules have tests of their own."""


GOLDEN = Path(__file__).parents[2] / "golden" / "params.json"

NAMED = {
    "default": ModelConfig(),
    "deit_tiny_softmax": ModelConfig(
        image_size=224,
        channels=3,
        num_classes=1000,
        patch_size=16,
        embed_width=192,
        pooling="cls",
        blocks=(BlockConfig(operator="softmax", num_heads=3, head_size=64),) * 12,
    ),
    "deit_tiny_castled": ModelConfig(
        image_size=224,
        channels=3,
        num_classes=1000,
        patch_size=16,
        embed_width=192,
        pooling="cls",
        blocks=(BlockConfig(num_heads=3, head_size=64),) * 12,
    ),
    "mixed_grid": ModelConfig(
        image_size=(12, 8),
        channels=3,
        embed_width=20,
        qkv_bias=False,
        blocks=(
            BlockConfig(conv_form="grid", conv_filters="channel", conv_kernel=5, head_size=7),
            BlockConfig(operator="softmax", num_heads=2, mlp_ratio=1.5),
        ),
    ),
}


def num_params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMED)
def test_parameter_counts_are_golden(name: str) -> None:
    with torch.device("meta"):
        model = CastlingViT(NAMED[name])
    assert num_params(model) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_with_softmax_everywhere_it_is_the_transformer_of_timm(name: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, img_size=48, num_classes=10).eval()
    assert isinstance(theirs, VisionTransformer)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    block = BlockConfig(operator="softmax", num_heads=3, head_size=64)
    config = ModelConfig(
        image_size=48,
        channels=3,
        patch_size=16,
        embed_width=192,
        pooling="cls",
        blocks=(block,) * 12,
    )
    ours = build(config, seed=1).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert (ours(images) - theirs(images)).abs().max() > 1e-2
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_the_tokens_are_the_patches_row_by_row() -> None:
    config = ModelConfig(image_size=(4, 6), patch_size=2, embed_width=1, pooling="cls")
    grid = layer_shapes(config)[0].grid
    assert (grid.height, grid.width, grid.num_prefix, grid.num_tokens) == (2, 3, 1, 7)
    embedding = build(config, seed=0).patch_embed
    torch.nn.init.ones_(embedding.proj.weight)
    torch.nn.init.zeros_(embedding.proj.bias)
    rows = torch.tensor([[0.0, 1, 2], [3, 4, 5]]) / 4
    image = rows.repeat_interleave(2, 0).repeat_interleave(2, 1)[None, None]
    assert embedding(image).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_classifier_sees_the_pooled_tokens(pooling: str) -> None:
    model = build(ModelConfig(pooling=pooling), seed=0).eval()
    seen = []
    model.norm.register_forward_hook(lambda _, __, output: seen.append(output))
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.randn(2, 1, 8, 8))
    tokens, pooled = seen
    assert tokens.shape == (2, 17 if pooling == "cls" else 16, 48)
    assert torch.equal(pooled, tokens[:, 0] if pooling == "cls" else tokens.mean(1))


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (build(ModelConfig(), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    drawn = build(ModelConfig())
    assert not torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(build(ModelConfig()).head.weight, drawn.head.weight)


def test_progress_moves_every_schedule() -> None:
    blocks = (
        BlockConfig(mask=MaskSchedule(end=0.5)),
        BlockConfig(operator="softmax"),
        BlockConfig(mask=MaskSchedule(end=1.0)),
        BlockConfig(mask=None),
    )
    model = build(ModelConfig(blocks=blocks), seed=0)
    set_progress(model, 0.75)
    assert [branch.is_empty for branch in branches(model)] == [True, False]
    assert branches(model)[1].threshold == pytest.approx(1 / 16 + 15 / 16 * 0.75)


def test_a_deep_copy_is_independent() -> None:
    model = build(ModelConfig(), seed=0)
    copied = copy.deepcopy(model)
    set_progress(copied, 1.0)
    assert not branches(model)[0].is_empty
    assert branches(copied)[0].is_empty


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_drop_path_skips_blocks_in_training_only(rate: float) -> None:
    model = build(ModelConfig(blocks=(BlockConfig(drop_path=rate),) * 3), seed=0)
    images = torch.randn(1, 1, 8, 8).repeat(32, 1, 1, 1)
    torch.manual_seed(0)
    assert (model.train()(images).std(dim=0).max() > 1e-3) == (rate > 0.0)
    assert model.eval()(images).std(dim=0).max() < 1e-6


SMALL_BLOCKS = st.builds(
    BlockConfig,
    operator=st.sampled_from([name for name in EVERYWHERE if OPERATORS[name].uses]),
    num_heads=st.integers(1, 3),
    head_size=st.integers(1, 6),
    conv_kernel=st.sampled_from([1, 3, 5, 9]),
    conv_form=st.sampled_from(["tokens", "grid"]),
    conv_filters=st.sampled_from(["head", "channel"]),
    mlp_ratio=st.floats(0.01, 3.0),
)


@st.composite
def small_models(draw: st.DrawFn) -> ModelConfig:
    patch = draw(st.integers(1, 3))
    sides = st.integers(1, 3).map(lambda patches: patches * patch)
    return ModelConfig(
        image_size=draw(st.tuples(sides, sides)),
        channels=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(1, 5)),
        patch_size=patch,
        embed_width=draw(st.integers(1, 9)),
        pooling=draw(st.sampled_from(["cls", "mean"])),
        qkv_bias=draw(st.booleans()),
        blocks=tuple(draw(st.lists(SMALL_BLOCKS, min_size=1, max_size=3))),
    )


@given(small_models())
@settings(max_examples=30)
def test_every_config_builds_a_model_that_trains(config: ModelConfig) -> None:
    model = build(config, seed=0)
    images = torch.randn(
        2, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0)
    )
    logits = model(images)
    assert logits.shape == (2, config.num_classes)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_castled_model_exports_to_a_graph() -> None:
    model = build(ModelConfig().castled(), seed=0).eval()
    images = torch.randn(2, 1, 8, 8)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


def test_chosen_layers_castle_and_every_other_weight_is_kept() -> None:
    config = ModelConfig(blocks=(BlockConfig(operator="softmax"),) * 3)
    model = build(config, seed=0)
    mask = MaskSchedule(start_multiple=2.0)
    castled = convert_backbone(
        model, ["softmax", {"operator": "linear_angular", "mask": mask}, "taylor"]
    )
    assert isinstance(castled, CastlingViT)
    assert [block.operator for block in castled.config.blocks] == [
        "softmax", "linear_angular", "taylor"
    ]  # fmt: skip
    assert castled.config.blocks[1].mask == mask
    own, kept = model.state_dict(), castled.state_dict()
    assert own.keys() <= kept.keys()
    assert all(torch.equal(own[name], kept[name]) for name in own)
    with torch.no_grad():
        castled.head.weight.zero_()
    assert model.head.weight.any()  # a model of its own
    images = torch.randn(2, 1, 8, 8)
    same = convert_backbone(model, "softmax")
    assert torch.equal(same.eval()(images), model.eval()(images))


def test_choices_that_do_not_fit_a_vit_are_refused() -> None:
    model = build(ModelConfig(blocks=(BlockConfig(),) * 3), seed=0)
    with pytest.raises(ConfigError, match="blocks: must have one choice for each of the 3"):
        convert_backbone(model, ["softmax", "softmax"])
    with pytest.raises(ConfigError, match="options: must be left out for a model that is built"):
        convert_backbone(model, "softmax", num_classes=3)
