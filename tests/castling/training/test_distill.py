import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from castling.config import BlockConfig, DistillConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.backbone import convert_backbone
from castling.model.build import build
from castling.training.distill import (
    Distillation,
    attention_layers,
    layers_loss,
    logits_loss,
    outputs_of,
    token_logits,
    token_targets,
    tokens_of,
)


SMALL = BlockConfig(num_heads=2, head_size=8, conv_kernel=3, mlp_ratio=1.0)
CASTLED = ModelConfig(embed_width=16, blocks=(SMALL, SMALL))
SOFTMAX = CASTLED.replace(blocks=(SMALL.replace(operator="softmax"),) * 2)


def images(count: int = 3, **shape: int) -> Tensor:
    size, channels = shape.get("size", 8), shape.get("channels", 1)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, size, size, generator=generator)


def distillation(model: nn.Module, teacher: nn.Module, **weights: float) -> Distillation:
    return Distillation(DistillConfig(**{"weight": 0.0, **weights}), model, teacher.eval(), seed=0)


def test_the_soft_loss_is_the_divergence_times_the_temperature_squared() -> None:
    said, right = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p = [1 / (1 + math.exp(2.0)), 1 / (1 + math.exp(-2.0))]  # the teacher's at temperature 2
    q = [1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(1.0))]
    expected = 4.0 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    config = DistillConfig(temperature=2.0)
    assert logits_loss(said, right, config).item() == pytest.approx(expected)
    both = logits_loss(said.repeat(5, 1), right.repeat(5, 1), config)
    assert both.item() == pytest.approx(expected)  # a mean over images
    assert logits_loss(right, right, config).item() == pytest.approx(0.0, abs=1e-6)


def test_the_hard_loss_is_the_cross_entropy_with_the_teachers_class() -> None:
    said = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    right = torch.tensor([[0.1, 0.0, 9.0], [0.3, 0.2, 0.1]])
    first = math.log(math.exp(2.0) + 1.0 + math.exp(1.0)) - 1.0
    loss = logits_loss(said, right, DistillConfig(form="hard", temperature=7.0))
    assert loss.item() == pytest.approx((first + math.log(3.0)) / 2)


def test_the_layers_loss_is_relative_and_a_mean_over_layers() -> None:
    ones, twos = torch.ones(2, 3, 4), torch.full((2, 3, 4), 2.0)
    assert layers_loss([ones], [twos]).item() == pytest.approx(0.25)
    assert layers_loss([ones, ones], [twos, ones]).item() == pytest.approx(0.125)
    assert layers_loss([1e3 * ones], [1e3 * twos]).item() == pytest.approx(0.25)
    assert layers_loss([ones], [torch.zeros(2, 3, 4)]).isfinite()


def test_layers_of_equal_models_differ_by_nothing_and_of_others_do_not() -> None:
    model, same = build(SOFTMAX, seed=0).eval(), build(SOFTMAX, seed=0)
    assert distillation(model, same, layer_weight=1.0)(images())[1].item() == 0.0
    other = build(CASTLED, seed=0).eval()
    assert distillation(other, same, layer_weight=1.0)(images())[1].item() > 0.1


def test_the_loss_is_the_weighted_sum_and_the_logits_are_the_models() -> None:
    model, teacher = build(CASTLED, seed=0).eval(), build(SOFTMAX, seed=1).eval()
    weights = {"weight": 0.3, "layer_weight": 0.7, "token_weight": 0.5}
    parts = [distillation(model, teacher, **{name: 1.0})(images())[1] for name in weights]
    logits, loss = distillation(model, teacher, **weights)(images())
    assert torch.equal(logits, model(images()))
    expected = sum(w * part.item() for w, part in zip(weights.values(), parts, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_model_and_the_local_head_learn_and_no_hook_is_left() -> None:
    model, teacher = (
        build(CASTLED, seed=0),
        build(SOFTMAX, seed=1).requires_grad_(requires_grad=False),
    )
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distilling = distillation(model, teacher, weight=0.5, layer_weight=1.0, token_weight=0.5)
    distilling(images())[1].backward()
    assert {name for name, _ in distilling.named_parameters()} == {"local.weight", "local.bias"}
    assert all(part.grad is not None for part in distilling.parameters())
    assert model.head.weight.grad is not None
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not any(part._forward_hooks for part in [*model.modules(), *teacher.modules()])


def test_the_local_head_has_a_class_more_and_is_drawn_from_the_seed() -> None:
    model, teacher = build(CASTLED, seed=0), build(SOFTMAX, seed=1)
    config = DistillConfig(token_weight=0.5)
    heads = [Distillation(config, model, teacher, seed).local for seed in (0, 0, 1)]
    assert heads[0].weight.shape == (11, 16)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


def test_token_targets_by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.3, 0.2], [0.36, 0.33, 0.31]]])
    config = DistillConfig(token_top=2, token_smoothing=0.2, token_background=0.5)
    targets = token_targets(probabilities.log(), config)
    spread = 0.2 / 4
    sure = [0.8 * 0.625 + spread, 0.8 * 0.375 + spread, spread, spread]
    background = [spread, spread, spread, 0.8 + spread]
    assert torch.allclose(targets, torch.tensor([[sure, background]]))


def test_background_is_the_least_sure_of_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator)
    config = DistillConfig(token_top=9, token_smoothing=0.0, token_background=0.4)
    targets = token_targets(logits, config)
    assert torch.allclose(targets.sum(-1), torch.ones(3, 5))
    confidence = logits.softmax(-1).amax(-1).flatten()
    unsure = set(confidence.argsort()[:6].tolist())
    assert set(targets[..., -1].flatten().nonzero().flatten().tolist()) == unsure
    none = token_targets(logits, config.replace(token_background=0.0))
    assert torch.allclose(none[..., :-1], logits.softmax(-1))  # top of more classes than there are


def test_the_tokens_loss_is_the_local_heads_cross_entropy() -> None:
    model, teacher = build(CASTLED, seed=0).eval(), build(SOFTMAX, seed=1).eval()
    distilling = distillation(model, teacher, token_weight=1.0)
    said = distilling.local(model.forward_features(images()))
    targets = token_targets(teacher.head(teacher.forward_features(images())), distilling.config)
    expected = -(targets * said.log_softmax(-1)).sum(-1).mean()
    assert distilling(images())[1].item() == pytest.approx(expected.item(), rel=1e-5)


TIMM: dict[str, dict[str, Any]] = {
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "embed_dim": 16, "depth": 1,
                                        "num_heads": 2},
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2,
                             "global_pool": "avg", "class_token": True},
    "swin_tiny_patch4_window7_224": {"img_size": 32, "embed_dim": 8, "depths": (1, 1),
                                     "num_heads": (1, 2), "window_size": 4},
    "resnet10t": {},
}  # fmt: skip


@pytest.mark.parametrize("name", list(TIMM))
def test_a_token_is_classified_as_an_image_of_that_token_alone(name: str) -> None:
    model = timm.create_model(name, num_classes=5, **TIMM[name]).eval()
    with torch.no_grad():
        features = model.forward_features(images(2, size=32, channels=3))
        said, tokens = token_logits(model, features), tokens_of(model, features)
    assert said.shape == (2, tokens.shape[1], 5)
    assert said.isfinite().all()
    if features.ndim == 3:
        assert tokens.shape[1] == features.shape[1] - model.num_prefix_tokens
        alone = tokens[1:, 2:3].expand(-1, 1 + model.num_prefix_tokens, -1)
    else:
        assert tokens.shape[1] == math.prod(features.shape[1:]) // tokens.shape[2]
        assert (said.mean(1) - model.forward_head(features)).abs().max() < 1e-4  # linear in tokens
        return
    assert torch.allclose(said[1, 2], model.forward_head(alone)[0], atol=1e-5)


def test_layers_of_backbones_are_compared_castled_or_not() -> None:
    name, options = "vit_tiny_patch16_224", {"embed_dim": 16, "depth": 2, "num_heads": 2}
    teacher = timm.create_model(name, img_size=32, num_classes=5, **options).eval()
    model = convert_backbone(name, "linear_angular", image_size=32, num_classes=5, **options)
    assert [type(layer).__name__ for layer in attention_layers(model, (3, 32, 32))] == [
        "LinearAngularAttention"
    ] * 2
    distilling = distillation(model, teacher, layer_weight=1.0, token_weight=0.5)
    logits, loss = distilling(images(2, size=32, channels=3))
    assert logits.shape == (2, 5)
    loss.backward()
    assert all(layer.proj.weight.grad is not None for layer in distilling.layers[0])


def test_outputs_are_collected_in_the_order_of_the_layers() -> None:
    layers = [nn.Linear(2, 2), nn.Identity()]
    with outputs_of(layers) as found:
        layers[1](torch.ones(1, 2))  # called first
        expected = layers[0](torch.zeros(1, 2))
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], torch.ones(1, 2))


@pytest.mark.parametrize(
    ("teacher", "weights", "reason"),
    [
        (SOFTMAX.replace(blocks=SOFTMAX.blocks[:1]), {"layer_weight": 1.0}, "1 attention layers"),
        (SOFTMAX.replace(embed_width=8), {"layer_weight": 1.0}, r"\(16, 8\)"),
        (SOFTMAX.replace(patch_size=4), {"token_weight": 0.5}, "teacher of 4 tokens"),
    ],
)
def test_what_does_not_pair_is_refused(
    teacher: ModelConfig, weights: dict[str, float], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        distillation(build(CASTLED, seed=0), build(teacher, seed=0), **weights)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"train.distill.{next(iter(weights))}: must be 0 for a ")


def test_a_teacher_without_attention_has_no_layers_to_pair() -> None:
    teacher = timm.create_model("resnet10t", in_chans=1, num_classes=10)
    with pytest.raises(ConfigError, match=r"layer_weight: must be 0 for a teacher without"):
        distillation(build(CASTLED, seed=0), teacher, layer_weight=1.0)
    wide = build(CASTLED.replace(image_size=32, patch_size=32), seed=0)
    loss = distillation(wide, teacher, weight=1.0, token_weight=0.5)(images(2, size=32))[1]
    assert loss.isfinite()  # its logits, and its one token, can be taught all the same


def test_features_and_head_are_the_forward_pass() -> None:
    for pooling in ("mean", "cls"):
        model = build(CASTLED.replace(pooling=pooling), seed=0).eval()
        features = model.forward_features(images())
        assert features.shape == (3, 16 + model.num_prefix_tokens, 16)
        assert torch.equal(model.forward_head(features), model(images()))


def test_a_teacher_that_teaches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight: must be above 0 where"):
        DistillConfig(weight=0.0)
