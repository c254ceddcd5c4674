"""What every kind of timm's attention must do when converted: a test class, one per adapter."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from traceback import walk_tb
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

import castling
from castling.config import BackboneConfig, LayerChoice, MaskSchedule
from castling.errors import ConfigError
from castling.model.adapters.sites import sites_of
from castling.model.backbone import backbone_config, convert_backbone
from castling.model.build import build
from castling.model.castle import castle, set_progress
from castling.model.timm_models import create
from castling.operators import OPERATORS
from castling.operators.spec import (
    CoreShape,
    CoreSpec,
    LayerShape,
    OperatorSpec,
    attention_macs,
    projection_params,
)
from castling.testing.saved_models import assert_saved_and_loaded
from space.cost import cost
from space.measure import measure_macs, measure_params


ALIVE = MaskSchedule(shape="constant", start_multiple=0.5)
NOTHING_MASKED = MaskSchedule(shape="constant", start_multiple=0.0)
IN_TURN = (
    LayerChoice(conv_kernel=5, mask=ALIVE),
    LayerChoice(conv_kernel=3, conv_form="grid", conv_filters="channel", mask=ALIVE),
    LayerChoice(operator="taylor", mask=ALIVE),
)
NUM_CLASSES = 5


@dataclass(frozen=True)
class Backbone:
    """A small model of timm with attention of the kind that is tested."""

    name: str
    num_layers: int
    """Attention layers that castle."""
    image_size: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    dropout: Mapping[str, float] = field(default_factory=lambda: {"drop_path_rate": 0.3})
    """Options that make the training random."""
    refused: int = 0
    """Attentions that stay as they are."""
    note: str = ""
    """What is special about it, for the test's name."""

    def __str__(self) -> str:
        return "-".join(part for part in (self.name, self.note) if part)

    def stock(self, **options: Any) -> nn.Module:
        """Return timm's own model."""
        return build(self.config("softmax", **options), seed=0)

    def config(self, *choices: str | LayerChoice, **options: Any) -> BackboneConfig:
        """Return the config whose layers take the choices in turn."""
        turn = [choices[index % len(choices)] for index in range(self.num_layers)]
        return backbone_config(
            self.name,
            turn,
            image_size=self.image_size,
            num_classes=NUM_CLASSES,
            **self.options,
            **options,
        )

    @cached_property
    def mixed(self) -> BackboneConfig:
        """A config whose layers castle differently, in turn."""
        return self.config(*IN_TURN)

    def images(self, batch: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, 3, *self.image_size, generator=generator)


def scrambled(model: nn.Module) -> nn.Module:
    """Return the model with weights and statistics far from their initial zeros and ones."""
    generator = torch.Generator().manual_seed(2)
    for tensor in model.parameters():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
        tensor.data += (noise / fan_in**0.5).to(tensor.dtype)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(std=0.2, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
    return model


class _OnlyAdded(nn.Module):
    """A core that returns what the masked branch adds."""

    def __init__(self, _: CoreShape) -> None:
        super().__init__()

    def forward(self, *given: Tensor | None) -> Tensor:
        added = given[-1]  # after q, k and v
        assert added is not None
        return added


class _OnlyBranch(nn.Module):
    """A whole layer that is its masked branch between projections."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        core = OPERATORS["taylor"].build(shape)
        self.qkv, self.proj, self.auxiliary = core.qkv, core.proj, core.auxiliary
        self.num_heads = shape.block.num_heads

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        added = self.auxiliary(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        return self.proj(added.transpose(1, 2).flatten(2))


@contextmanager
def operator_that_is_the_branch() -> Iterator[LayerChoice]:
    """Hold an operator that, as nothing is masked, is the attention whose place it takes."""
    spec = OperatorSpec(
        summary="the branch alone",
        source="this test",
        build=_OnlyBranch,
        uses=frozenset({"mask"}),
        macs=attention_macs,
        params=projection_params,
        training_macs=attention_macs,
        core=CoreSpec(build=_OnlyAdded, macs=lambda _: 0, params=lambda _: 0),
    )
    with OPERATORS.temporarily("only_branch", spec):
        yield LayerChoice(operator="only_branch", mask=NOTHING_MASKED)


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor | None]:
    """Return the gradient of every parameter, of one random projection of the logits."""
    logits = model(images)
    logits = logits if isinstance(logits, Tensor) else sum(logits)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    (logits * weights.to(logits.dtype)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class AdapterContract:
    """Inherit as `Test...` and give `backbones`; every test runs on each of them."""

    backbones: ClassVar[tuple[Backbone, ...]]

    def test_finds_the_layers(self, backbone: Backbone) -> None:
        sites = sites_of(backbone.mixed)
        assert len(sites.layers) == backbone.num_layers
        assert len(sites.refused) == backbone.refused

    def test_the_branch_alone_is_the_attention_of_timm(self, backbone: Backbone) -> None:
        stock = scrambled(backbone.stock()).double().eval()
        images = backbone.images().double()
        with operator_that_is_the_branch() as choice, torch.no_grad():
            model = convert_backbone(copy.deepcopy(stock), choice, image_size=backbone.image_size)
            torch.testing.assert_close(model.eval()(images), stock(images), rtol=1e-7, atol=1e-9)

    def test_all_softmax_is_timm_bit_for_bit(self, backbone: Backbone) -> None:
        config = backbone.config("softmax", **backbone.dropout)
        torch.manual_seed(4)
        theirs = create(
            config.backbone,
            img_size=config.image_size,
            num_classes=NUM_CLASSES,
            **config.options,
        )
        torch.manual_seed(4)
        ours = build(config)
        outcome = []
        for model in (theirs, ours):
            torch.manual_seed(5)
            grads = gradients(scrambled(model).train(), backbone.images())
            with torch.no_grad():
                outcome.append((grads, model.eval()(backbone.images())))
        (their_grads, their_logits), (our_grads, our_logits) = outcome
        assert torch.equal(their_logits, our_logits)
        assert their_grads.keys() == our_grads.keys()
        for name, gradient in their_grads.items():
            assert (gradient is None) == (our_grads[name] is None)
            assert gradient is None or torch.equal(gradient, our_grads[name]), name

    def test_weights_of_timm_load(self, backbone: Backbone) -> None:
        model, weights = build(backbone.mixed), scrambled(backbone.stock()).state_dict()
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert unexpected == []
        assert all({"core", "conv", "auxiliary"} & set(name.split(".")) for name in missing)
        loaded = model.state_dict()
        assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())

    def test_castling_leaves_nothing_of_training(self, backbone: Backbone) -> None:
        rising = MaskSchedule(end=0.5)
        config = backbone.config(*(choice.replace(mask=rising) for choice in IN_TURN))
        model = scrambled(build(config, seed=0))
        set_progress(model, 1.0)
        castled, images = castle(model), backbone.images()
        with torch.no_grad():
            assert torch.equal(castled(images), model.eval()(images))
        anew = build(config.castled())
        assert castled.state_dict().keys() == anew.state_dict().keys()
        assert dict(castled.named_buffers()).keys() == dict(anew.named_buffers()).keys()

    def test_a_model_of_any_precision_is_saved_and_loaded(
        self, backbone: Backbone, tmp_path: Path
    ) -> None:
        model = scrambled(build(backbone.mixed, seed=0))
        set_progress(model, 0.3)
        for precision in (torch.float64, torch.bfloat16):
            assert_saved_and_loaded(model.to(precision), tmp_path)

    def test_a_mask_that_is_alive_changes_the_logits(self, backbone: Backbone) -> None:
        model = scrambled(build(backbone.mixed, seed=0)).eval()
        with torch.no_grad():
            images = backbone.images()
            assert (castle(model)(images) - model(images)).abs().max() > 1e-4

    def test_closed_form_is_what_is_counted(self, backbone: Backbone) -> None:
        config, shape = backbone.mixed, (3, *backbone.image_size)
        training, expected = build(config, seed=0), cost(config)
        castled = castle(training)
        assert measure_macs(castled, shape) == expected.macs
        assert measure_macs(training, shape) == expected.training_macs
        assert measure_params(castled) == expected.params

    def test_closed_form_of_softmax_is_what_is_counted(self, backbone: Backbone) -> None:
        config, shape = backbone.config("softmax"), (3, *backbone.image_size)
        model = build(config, seed=0)
        assert measure_macs(model, shape) == cost(config).macs == cost(config).training_macs
        assert measure_params(model) == cost(config).params

    def test_gradients_reach_every_parameter(self, backbone: Backbone) -> None:
        reached = gradients(scrambled(backbone.stock()).train(), backbone.images(4))
        unused = {name for name, grad in reached.items() if grad is None or not grad.any()}
        model = scrambled(build(backbone.mixed, seed=0)).train()
        for name, gradient in gradients(model, backbone.images(4)).items():
            assert name in unused or (gradient is not None and gradient.any()), name

    def test_images_of_another_size_are_refused_or_right(self, backbone: Backbone) -> None:
        """Right is what a model of that size makes of them with the same weights."""
        height, width = backbone.image_size
        for others in ((width, height), (height // 2, width * 2), (height, 2 * width)):
            for choice in (LayerChoice(conv_form="grid", mask=ALIVE), LayerChoice(mask=None)):
                config = backbone.config(choice)
                model = scrambled(build(config, seed=0)).eval()
                images = torch.randn(2, 3, *others, generator=torch.Generator().manual_seed(1))
                outcome = logits_or_error(model, images)
                if isinstance(outcome, ConfigError):
                    assert "image size: must be that of the model" in str(outcome)
                elif isinstance(outcome, Exception):
                    assert raised_by_timm(outcome), outcome
                else:
                    anew = of_another_size(config, others)
                    assert anew or choice.conv_form == "tokens"
                    if anew:
                        anew.load_state_dict(model.state_dict())
                        torch.testing.assert_close(outcome, anew(images), rtol=1e-4, atol=1e-4)


def logits_or_error(model: nn.Module, images: Tensor) -> Tensor | Exception:
    try:
        with torch.no_grad():
            return model(images)
    except (ConfigError, AssertionError, RuntimeError) as error:
        return error


def of_another_size(config: BackboneConfig, size: tuple[int, int]) -> nn.Module | None:
    """Return the model for images of another size, or None where timm builds or knows none."""
    try:
        return build(config.replace(image_size=size)).eval()
    except ConfigError:
        return None


def raised_by_timm(error: Exception) -> bool:
    """Return whether timm's own code, not castling's, met an error."""
    homes = [Path(package.__file__).parent for package in (timm, castling) if package.__file__]
    files = [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)]
    within = [home for file in files for home in homes if file.is_relative_to(home)]
    return within[-1] == homes[0]
