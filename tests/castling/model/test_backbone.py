import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.utils import CheckpointSaver
from torch import nn

import castling
from castling.config import (
    BackboneConfig,
    BlockConfig,
    LayerChoice,
    MaskSchedule,
    RunConfig,
    StockBackbone,
)
from castling.errors import CastlingError, CheckpointError, ConfigError
from castling.model.adapters.sites import sites_of
from castling.model.backbone import backbone_config
from castling.model.check import digest, read_run_config
from castling.operators import OPERATORS
from castling.operators.modules.auxiliary import branches
from castling.training.teacher import load_initial
from castling.untrusted.timm_checkpoint import read_timm_checkpoint
from space.cost import cost
from space.measure import measure_macs, measure_params


DEIT: dict[str, Any] = {"image_size": 32, "embed_dim": 24, "depth": 3, "num_heads": 2}
LEVIT: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": (16, 24, 32),
    "key_dim": 4,
    "num_heads": (2, 3, 4),
    "depth": (1, 1, 1),
}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "window_size": 4,
}
SMALL: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": DEIT,
    "levit_128": LEVIT,
    "swin_tiny_patch4_window7_224": SWIN,
}
"""Small models of timm's families, by architecture."""


def castled(name: str, choice: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return castling.convert_backbone(name, choice, num_classes=5, **{**SMALL[name], **options})


def images(model: nn.Module, count: int = 2) -> torch.Tensor:
    height, width = model.config.image_size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(SMALL))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_one_choice_stands_for_all_layers_and_several_go_in_order() -> None:
    model = castled("deit_tiny_patch16_224", "linear_angular")
    assert [layer.operator for layer in model.config.blocks] == ["linear_angular"] * 3
    choices = [
        "softmax",
        {"operator": "linear_angular", "conv_kernel": 3, "conv_form": "grid"},
        LayerChoice(operator="taylor", mask=MaskSchedule(shape="cosine", end=0.5)),
    ]
    model = castled("deit_tiny_patch16_224", choices)
    stock, second, third = (block.attn for block in model.blocks)
    assert type(stock) is timm.layers.Attention
    assert second.conv.weight.shape == (2, 1, 3, 3)
    assert third.auxiliary.schedule == MaskSchedule(shape="cosine", end=0.5)


def test_a_block_config_serves_as_a_choice_of_which_the_layers_sizes_win() -> None:
    model = castled("deit_tiny_patch16_224", BlockConfig(num_heads=7, head_size=5, conv_kernel=5))
    assert model.blocks[0].attn.qkv.weight.shape == (72, 24)
    assert model.blocks[0].attn.conv.weight.shape == (2, 1, 5, 1)


def test_a_model_of_timm_is_changed_in_place_and_keeps_its_weights(name: str) -> None:
    given = {key: value for key, value in SMALL[name].items() if key != "image_size"}
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=5, img_size=SMALL[name]["image_size"], **given)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    returned = castling.convert_backbone(
        model, "linear_angular", image_size=SMALL[name]["image_size"]
    )
    assert returned is model
    after = model.state_dict()
    assert set(before) <= set(after) | {
        key for key in before if "attention_bias" in key or "relative_position" in key
    }
    assert all(torch.equal(after[key], value) for key, value in before.items() if key in after)
    assert len(branches(model)) == len(sites_of(castled(name, "softmax").config).layers)


def test_the_same_seed_gives_the_same_model(name: str) -> None:
    config = castled(name, "linear_angular").config
    first, second = (castling.build(config, seed=7) for _ in range(2))
    x = images(first)
    assert torch.equal(first.eval()(x), second.eval()(x))


def test_timms_defaults_can_be_built_anew_and_nothing_else() -> None:
    model = castling.convert_backbone(timm.create_model("levit_128", num_classes=7), "softmax")
    assert model.config.backbone == "levit_128"
    assert model.config.num_classes == 7
    odd = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, num_classes=7)
    castling.convert_backbone(odd, "linear_angular")
    assert odd.config is None
    with pytest.raises(ConfigError, match="must be built from a config or from the name"):
        castling.save(odd, "nowhere")
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("choice", ["softmax", "linear_angular"])
def test_saved_models_load_castled_and_compute_the_same(
    name: str, choice: str, tmp_path: Path
) -> None:
    model = castled(name, choice)
    castling.set_progress(model, 1.0)
    castling.save(model, tmp_path)
    loaded = castling.load(tmp_path)
    assert loaded.config == model.config.castled()
    assert not branches(loaded)
    assert torch.equal(loaded(images(model)), model.eval()(images(model)))


def test_a_config_in_yaml_gives_one_choice_for_all_layers(tmp_path: Path) -> None:
    text = (
        "model:\n  backbone: deit_tiny_patch16_224\n  image_size: 32\n  num_classes: 5\n"
        "  options: {embed_dim: 24, depth: 3, num_heads: 2}\n"
        "  blocks: {operator: linear_angular, conv_kernel: 5}\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    model = read_run_config(tmp_path).model
    assert isinstance(model, BackboneConfig)
    assert len(model.blocks) == 3
    assert {layer.conv_kernel for layer in model.blocks} == {5}
    (tmp_path / "config.yaml").write_text(
        text.replace("{operator: linear_angular, conv_kernel: 5}", "skip")
    )
    named = read_run_config(tmp_path).model
    assert [layer.operator for layer in named.blocks] == ["skip"] * 3
    listed = BackboneConfig(**{**dict(named), "blocks": ["softmax", {"mask": None}, "skip"]})
    assert [layer.operator for layer in listed.blocks] == ["softmax", "linear_angular", "skip"]
    run = RunConfig(model=model)
    assert RunConfig.from_data(json.loads(json.dumps(run.to_data()))) == run


def test_what_an_operator_ignores_does_not_make_another_training() -> None:
    plain = backbone_config("deit_tiny_patch16_224", "softmax", **DEIT)
    odd = backbone_config(
        "deit_tiny_patch16_224", LayerChoice(operator="softmax", conv_kernel=3), **DEIT
    )
    assert plain != odd
    assert digest(RunConfig(model=plain)) == digest(RunConfig(model=odd))
    other = backbone_config("deit_tiny_patch16_224", "linear_angular", **DEIT)
    assert digest(RunConfig(model=plain)) != digest(RunConfig(model=other))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint as timm's training script writes it, with optimiser and arguments."""
    torch.manual_seed(11)
    model = timm.create_model(
        "deit_tiny_patch16_224", num_classes=5, img_size=32, embed_dim=24, depth=3, num_heads=2
    )
    saver = CheckpointSaver(
        model,
        torch.optim.AdamW(model.parameters()),
        args=argparse.Namespace(model="deit_tiny_patch16_224"),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, metric=0.5)
    return tmp_path / "last.pth.tar"


def test_a_checkpoint_that_timm_wrote_loads_unchanged(checkpoint: Path) -> None:
    written = read_timm_checkpoint(checkpoint)
    model = castled("deit_tiny_patch16_224", "softmax", weights=checkpoint)
    assert all(torch.equal(value, written[key]) for key, value in model.state_dict().items())
    model = castled("deit_tiny_patch16_224", "linear_angular", weights=checkpoint)
    new = {key for key in model.state_dict() if key not in written}
    assert {key.split(".", 3)[3] for key in new} == {"conv.weight", "auxiliary.progress"}
    assert all(torch.equal(model.state_dict()[key], value) for key, value in written.items())


@pytest.mark.parametrize("name", ["model_best.pth.tar", "m.tar", "m.pth", "m.pt", "m.bin"])
def test_a_training_begins_with_a_checkpoint_of_timms_of_any_suffix(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    path = checkpoint.rename(tmp_path / name)
    options = {key: value for key, value in DEIT.items() if key != "image_size"}
    model = backbone_config(
        "deit_tiny_patch16_224", "linear_angular", image_size=32, num_classes=5, **options
    )
    run = RunConfig.from_data({"model": model.to_data(), "train": {"initial": str(path)}})
    initial = load_initial(run)
    assert initial is not None
    written = read_timm_checkpoint(path)
    assert all(torch.equal(value, written[key]) for key, value in initial.state_dict().items())


def test_a_checkpoint_of_other_classes_leaves_the_classifier_at_random(checkpoint: Path) -> None:
    written = read_timm_checkpoint(checkpoint)
    model = castling.convert_backbone(
        "deit_tiny_patch16_224", "linear_angular", weights=checkpoint, num_classes=9, **DEIT
    )
    assert model.head.weight.shape == (9, 24)
    assert torch.equal(model.patch_embed.proj.weight, written["patch_embed.proj.weight"])


def test_a_checkpoint_for_another_image_size_has_its_positions_resampled(
    checkpoint: Path,
) -> None:
    model = castled("deit_tiny_patch16_224", "linear_angular", weights=checkpoint, image_size=48)
    assert model.pos_embed.shape == (1, 10, 24)


def test_unreadable_and_foreign_checkpoints_are_refused(checkpoint: Path) -> None:
    def refused(path: Path, reason: str, **options: Any) -> None:
        with pytest.raises(CheckpointError, match=reason) as caught:
            castled("deit_tiny_patch16_224", "linear_angular", weights=path, **options)
        assert "\n" not in str(caught.value)

    refused(checkpoint.with_name("none.pth"), "there is no such file")
    content = checkpoint.read_bytes()
    truncated = checkpoint.with_name("truncated.pth")
    truncated.write_bytes(content[: len(content) // 2])
    refused(truncated, "truncated or no checkpoint")
    text = checkpoint.with_name("text.safetensors")
    text.write_text("no tensors here")
    refused(text, "truncated or not safetensors")
    numbers = checkpoint.with_name("numbers.pth")
    torch.save({"state_dict": {"epoch": 3}}, numbers)
    refused(numbers, "no checkpoint of a model")
    code = checkpoint.with_name("code.pth")
    torch.save({"state_dict": nn.Linear(2, 2)}, code)  # a pickled module would run its code
    refused(code, "truncated or no checkpoint")
    refused(checkpoint, "holds no deit_tiny", embed_dim=32)


@pytest.mark.parametrize("missing", ["blocks.0.norm1.weight", "blocks.1.attn.proj.bias"])
@pytest.mark.parametrize("num_classes", [5, 10])
def test_a_checkpoint_that_misses_a_weight_is_refused_whatever_the_classes(
    missing: str, num_classes: int, tmp_path: Path
) -> None:
    """Untrained, the weight equals others of the model: only its name tells that it is missing."""
    model = timm.create_model(
        "deit_tiny_patch16_224", num_classes=5, img_size=32, embed_dim=24, depth=2, num_heads=2
    )
    path = tmp_path / "model.pth"
    torch.save({k: v for k, v in model.state_dict().items() if k != missing}, path)
    options = {**DEIT, "depth": 2, "num_classes": num_classes, "weights": path}
    with pytest.raises(CheckpointError, match=missing):
        castling.convert_backbone("deit_tiny_patch16_224", "softmax", **options)


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        (
            ("deit_tiny_patch_16", "softmax"),
            {},
            "must be one of timm's models, got .*did you mean deit",
        ),
        (("", "softmax"), {}, "backbone: must be one of timm's models"),
        (("resnet18", "softmax"), {}, "must have attention that can be converted, got 'resnet18'"),
        (("deit_tiny_patch16_224", ["softmax"] * 3), {}, "12 attention layers .*, got 3"),
        (("deit_tiny_patch16_224", []), {}, "12 attention layers .*, got 0"),
        (("deit_tiny_patch16_224", "magic"), {}, "operator: must be one of .*, got 'magic'"),
        (("deit_tiny_patch16_224", {"kernel": 3}), {}, "kernel: is not a field of LayerChoice"),
        (("deit_tiny_patch16_224", {"conv_kernel": 4}), {}, "conv_kernel: must be odd, got 4"),
        (("deit_tiny_patch16_224", "spvit_gated"), {}, r"blocks.0.operator: must be one that"),
        (("deit_tiny_patch16_224", "swin"), {}, r"blocks.0.operator: .*class token"),
        (("levit_128", "vicinity"), {}, r"blocks.0.operator: must be one of .*linear_angular"),
        (("deit_tiny_patch16_224", "softmax"), {"image_size": 8}, "image_size: does not fit"),
        (("deit_tiny_patch16_224", "softmax"), {"wings": 2}, "cannot be built with .*wings=2"),
        (("swin_tiny_patch4_window7_224", "softmax"), {"in_chans": 0}, "channels: .*got 0"),
    ],
)
def test_what_cannot_be_castled_is_refused_in_one_sentence(
    arguments: tuple[Any, Any], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CastlingError, match=reason) as caught:
        castling.convert_backbone(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.is_bad_input


def test_a_module_takes_no_options_and_must_have_known_attention() -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=1)
    with pytest.raises(ConfigError, match="must be left out for a model that is built"):
        castling.convert_backbone(model, "softmax", num_classes=3)
    with pytest.raises(ConfigError, match="must have attention that can be converted"):
        castling.convert_backbone(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2)), "softmax"
        )
    with pytest.raises(ConfigError, match="image_size: does not fit"):
        castling.convert_backbone(model, "softmax", image_size=100)
    assert type(model.blocks[0].attn) is timm.layers.Attention


def test_an_attention_that_was_castled_is_not_castled_again() -> None:
    model = castled("deit_tiny_patch16_224", "linear_angular")
    with pytest.raises(ConfigError, match="must have attention that can be converted"):
        castling.convert_backbone(model, "taylor", image_size=32)


def test_a_mask_given_to_a_castled_layer_is_refused() -> None:
    model = castled("deit_tiny_patch16_224", "linear_angular")
    mask = torch.zeros(5, 5)
    with pytest.raises(ConfigError, match="attn_mask: must be None"):
        model(images(model), attn_mask=mask)


def test_options_must_be_plain_data() -> None:
    with pytest.raises(ConfigError, match="options: must be plain data"):
        sites_of(StockBackbone(backbone="levit_128", options={"act_layer": nn.ReLU}))


@pytest.mark.parametrize("operator", [name for name, spec in OPERATORS.items() if spec.searchable])
def test_every_operator_serves_a_vision_transformer_of_timms(operator: str) -> None:
    """Without a class token, 16 tokens, so that windows and grids fit."""
    model = castling.convert_backbone(
        "vit_tiny_patch16_224",
        operator,
        image_size=64,
        num_classes=5,
        class_token=False,
        global_pool="avg",
        embed_dim=32,
        depth=2,
        num_heads=4,
    )
    model(images(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.patch_embed.parameters())
    spent, shape = cost(model.config), (3, 64, 64)
    assert spent.training_macs == measure_macs(model, shape)
    castled_model = castling.castle(model)
    assert spent.macs == measure_macs(castled_model, shape)
    assert spent.params == measure_params(castled_model)


@pytest.mark.parametrize("option", ["img_size", "in_chans", "pretrained", "checkpoint_path"])
def test_a_config_holds_no_option_twice_and_no_weights(option: str) -> None:
    with pytest.raises(ConfigError, match=f"options.{option}: is .*; remove '{option}'"):
        StockBackbone(backbone="levit_128", options={option: 64})


def test_a_model_that_was_built_by_name_may_be_castled_further(tmp_path: Path) -> None:
    model = castled("deit_tiny_patch16_224", "softmax", drop_path_rate=0.2)
    castling.convert_backbone(model, ["softmax", "linear_angular", "softmax"])
    assert [layer.operator for layer in model.config.blocks] == [
        "softmax",
        "linear_angular",
        "softmax",
    ]
    castling.set_progress(model, 1.0)
    castling.save(model, tmp_path)
    assert torch.equal(castling.load(tmp_path)(images(model)), model.eval()(images(model)))
    castling.convert_backbone(model, "taylor", image_size=32)  # the two layers that are timm's
    assert model.config is None


def test_a_model_of_another_structure_but_equal_sizes_has_no_config() -> None:
    model = timm.create_model("deit_tiny_patch16_224", act_layer=nn.ReLU, num_classes=5)
    assert castling.convert_backbone(model, "softmax").config is None
    model = timm.create_model("deit_tiny_patch16_224", drop_path_rate=0.1, num_classes=5)
    assert castling.convert_backbone(model, "softmax").config is not None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_changed_pooling_is_saved_or_refused(when: str, tmp_path: Path) -> None:
    """It is a plain attribute, which neither parts nor weights show."""
    model = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=4)
    if when == "before":
        model.reset_classifier(4, global_pool="avg")
    model = castling.castle(castling.convert_backbone(model, "linear_angular"))
    if when == "after":
        model.reset_classifier(4, global_pool="avg")
        with pytest.raises(ConfigError, match="global_pool that its config gives, 'token', to be"):
            castling.save(model, tmp_path)
        return
    castling.save(model, tmp_path)
    inputs = torch.randn(2, 3, 32, 32)
    assert torch.equal(castling.load(tmp_path)(inputs), model(inputs))


def test_features_of_images_of_another_size_are_refused_as_logits_are() -> None:
    model = castled("levit_128", {"operator": "linear_angular", "conv_form": "grid"}).eval()
    for call in (model, model.forward_features, model.forward_intermediates):
        call(torch.randn(1, 3, 64, 64))
        with pytest.raises(ConfigError, match="image size: must be that of the model, 64 x 64"):
            call(torch.randn(1, 3, 128, 32))


def test_a_converted_model_says_its_own_size_and_classes() -> None:
    stock = timm.get_pretrained_cfg("levit_128")
    model = castled("levit_128", "linear_angular")
    assert model.pretrained_cfg is model.default_cfg
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)
    assert model.pretrained_cfg["num_classes"] == 5
    assert model.pretrained_cfg["mean"] == stock.mean
    assert timm.get_pretrained_cfg("levit_128") == stock
