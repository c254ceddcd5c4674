"""timm's models castled in place: DeiT, LeViT, MViTv2, Swin and what else has known attention."""

import copy
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import timm
import torch
from safetensors import SafetensorError
from timm.layers import DropPath
from timm.models import load_state_dict
from torch import Tensor, nn

from castling.config import BackboneConfig, LayerChoice, StockBackbone
from castling.errors import CheckpointError, ConfigError
from castling.model.hosts.anatomy import Anatomy, anatomy_of, create, examine, first_line
from castling.model.hosts.spec import STOCK
from castling.model.keep import keep_weights
from castling.model.sizes import hold_image_size
from castling.model.tensor_file import check_fits, read_header
from castling.model.vit import CastlingViT
from castling.operators.spec import holds_grid


Choice = str | Mapping[str, Any] | LayerChoice
"""An operator's name, or the fields of a LayerChoice, or one."""

WEIGHT_OPTIONS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""What timm's `create_model` takes to find weights; a config does not keep it."""


def castle_backbone(
    backbone: str | nn.Module,
    choice: Choice | Sequence[Choice],
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Return a model whose attention layers follow the given choices.

    Layers of timm's models are swapped in place, with every weight of timm's that the choice can
    use under the name that timm gives it. A layer whose choice is `softmax` is not touched: a
    model of such layers is timm's, bit for bit. The model trains as any other;
    `castling.set_progress` moves the masks, `castling.castle` drops the branches,
    `castling.save` writes what timm can build anew.

    Args:
        backbone: timm's name of an architecture, or a model of timm, which is changed; or a
            CastlingViT, which is not: the model returned is another, with its weights.
        choice: one for all attention layers, or one per layer, first to last.
        image_size: pixels, height and width or a square's side; by default the model's own.
        weights: a checkpoint of timm's, .safetensors or .pth, to begin with. A classifier of other
            classes is left at random, as timm does it.
        options: of `timm.create_model`, for a name: pretrained, num_classes, drop_path_rate...

    Raises:
        ConfigError: when there is no such model, none of its attention can castle, the number of
            choices is not that of the layers, or a layer cannot take its choice.
        CheckpointError: when the weights are missing, truncated or of another model.
    """
    if isinstance(backbone, nn.Module):
        if options or weights is not None:
            given = sorted(options) + ["weights"] * (weights is not None)
            raise ConfigError("options", "must be left out for a model that is built", given)
        if isinstance(backbone, CastlingViT):
            return _castle_vit(backbone, choice)
        return _castle_module(backbone, choice, image_size)
    finding = {name: options.pop(name) for name in WEIGHT_OPTIONS if name in options}
    config = backbone_config(backbone, choice, image_size=image_size, **options)
    return build_backbone(config, weights=weights, **finding)


def backbone_config(
    backbone: str,
    choice: Choice | Sequence[Choice],
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> BackboneConfig:
    """Return the config of a castled model of timm; arguments as of `castle_backbone`."""
    stock = stock_backbone(backbone, image_size=image_size, **options)
    return BackboneConfig(**dict(stock), blocks=layer_choices(choice, anatomy_of(stock)))


def stock_backbone(
    backbone: str, *, image_size: int | tuple[int, int] | None = None, **options: Any
) -> StockBackbone:
    """Return the config of a model as timm has it, sizes by default its own."""
    own = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    channels, *size = own.input_size if own else (3, 224, 224)
    given: Any = image_size or options.pop("img_size", None) or tuple(size)
    return StockBackbone(
        backbone=backbone,
        image_size=given,
        channels=options.pop("in_chans", channels),
        num_classes=options.pop("num_classes", own.num_classes if own else 1000),
        options=options,
    )


def build_backbone(
    config: BackboneConfig, *, weights: str | Path | None = None, **finding: Any
) -> nn.Module:
    """Return the training model of a config, in training mode; see `castle_backbone`."""
    options = {
        "img_size": config.image_size,
        "in_chans": config.channels,
        "num_classes": config.num_classes,
        **config.options,
        **finding,
    }
    if weights is None:
        model = create(config.backbone, **options)
    else:
        model = create_with(Path(weights), config.backbone, **options)
    return _swapped(model, anatomy_of(config), config.blocks, config.image_size, config)


def stock_config(config: BackboneConfig) -> BackboneConfig:
    """Return the config of timm's own model: softmax in every layer."""
    return config.replace(blocks=tuple(LayerChoice(operator=STOCK) for _ in config.blocks))


def layer_choices(choice: Choice | Sequence[Choice], anatomy: Anatomy) -> tuple[LayerChoice, ...]:
    """Return one choice per attention layer; a single one is for all."""
    return _choices(choice, len(anatomy.layers))


def _choices(choice: object, num_layers: int) -> tuple[LayerChoice, ...]:
    if isinstance(choice, str | Mapping | LayerChoice):
        return (_layer_choice(choice),) * num_layers
    if not isinstance(choice, Sequence):
        return (_layer_choice(choice),)  # which refuses it
    return tuple(_layer_choice(one) for one in choice)


def _layer_choice(choice: object) -> LayerChoice:
    if isinstance(choice, str):
        return LayerChoice(operator=choice)
    if isinstance(choice, Mapping):
        return LayerChoice.from_data(choice)
    if not isinstance(choice, LayerChoice):
        rule = "must be an operator's name, a LayerChoice, or one of them for each layer"
        raise ConfigError("choice", rule, choice)
    return choice


def _castle_module(
    model: nn.Module,
    choice: Choice | Sequence[Choice],
    image_size: int | tuple[int, int] | None,
) -> nn.Module:
    name = type(model).__name__
    shape = _image_shape(model, image_size)
    anatomy = examine(copy.deepcopy(model).to("meta"), name, shape)
    choices = layer_choices(choice, anatomy)
    anatomy.check(choices)
    return _swapped(model, anatomy, choices, shape[1:], _config_of(model, shape, choices))


def _castle_vit(model: CastlingViT, choice: Choice | Sequence[Choice]) -> CastlingViT:
    """Return a CastlingViT of other choices, with every weight that both have."""
    blocks = model.config.blocks
    choices = _choices(choice, len(blocks))
    if len(choices) != len(blocks):
        rule = f"must have one choice for each of the {len(blocks)} attention layers"
        raise ConfigError("blocks", rule, len(choices))
    changed = [
        block.replace(**{name: getattr(one, name) for name in LayerChoice.model_fields})
        for block, one in zip(blocks, choices, strict=True)
    ]
    castled = CastlingViT(model.config.replace(blocks=tuple(changed)))
    keep_weights(castled, model.state_dict())
    return castled.to(next(model.parameters()).device)


def _swapped(
    model: nn.Module,
    anatomy: Anatomy,
    choices: Sequence[LayerChoice],
    image_size: tuple[int, int],
    config: BackboneConfig | None,
) -> nn.Module:
    held = False
    for layer, choice in zip(anatomy.layers, choices, strict=True):
        if choice.operator != STOCK:
            castled = layer.castled(model.get_submodule(layer.name), choice)
            model.set_submodule(layer.name, castled)
            held |= holds_grid(castled) and not layer.sees_sides
    if held:  # sides that the layers cannot check
        hold_image_size(model, image_size)
    vars(model)["config"] = config  # torch types every attribute as tensor or module
    return model


def _image_shape(
    model: nn.Module, image_size: int | tuple[int, int] | None
) -> tuple[int, int, int]:
    """Return (channel, height, width) of the images that a model is for."""
    own = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = own.get("input_size", (3, 224, 224))
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    if convolutions:
        channels = convolutions[0].in_channels
    patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    given = image_size or patches or size
    height, width = (given, given) if isinstance(given, int) else given
    return channels, height, width


def _config_of(
    model: nn.Module, shape: tuple[int, int, int], choices: Sequence[LayerChoice]
) -> BackboneConfig | None:
    """Return the config that builds a model anew, or None where it would build another.

    It is the one that the model was built from, or else timm's defaults for its architecture.
    """
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    own = getattr(model, "config", None)
    options = own.options if isinstance(own, BackboneConfig) else {}
    try:
        config = BackboneConfig(
            backbone=known.get("architecture", ""),
            image_size=shape[1:],
            channels=shape[0],
            num_classes=getattr(model, "num_classes", 0),
            options=options,
            blocks=tuple(choices),
        )
        with torch.device("meta"):
            anew = create(
                config.backbone, img_size=shape[1:], in_chans=shape[0],
                num_classes=config.num_classes, **options,
            )  # fmt: skip
    except (ConfigError, KeyError):
        return None
    return config if _structure(anew) == _structure(model) else None


def _structure(model: nn.Module) -> dict[str, object]:
    """Return what two models must share to be one at inference: parts, settings, sizes."""
    parts = {
        path: (type(part).__name__, part.extra_repr())
        for path, part in model.named_modules()
        if not isinstance(part, nn.Dropout | nn.Identity | DropPath)
    }
    return parts | {path: tensor.shape for path, tensor in model.state_dict().items()}


def create_with(weights: Path, backbone: str, /, **options: Any) -> nn.Module:
    """Return a model of timm that begins with a checkpoint, adapted as timm does it.

    Raises:
        CheckpointError: when the weights are missing, truncated or of another model.
    """
    tensors = read_timm_checkpoint(weights)
    num_classes = checkpoint_classes(tensors, backbone)
    overlay: dict[str, Any] = {"state_dict": dict(tensors), "custom_load": False}
    overlay |= {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = create(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except ConfigError as error:  # its words list all options, the weights among them
        reason = first_line(error.__cause__ or error)
        raise CheckpointError(str(weights), f"it holds no {backbone} ({reason})") from None
    lacking = _lacking(model, tensors, _classifiers(backbone))
    if lacking:
        raise CheckpointError(str(weights), f"it holds no {backbone} (it lacks {lacking[0]})")
    return model


def _lacking(
    model: nn.Module, tensors: Mapping[str, Tensor], classifiers: Sequence[str]
) -> list[str]:
    """Return what a model could not have from a checkpoint, under its name or, renamed, another's.

    timm passes over what is missing; a classifier of other classes may be.
    """
    lacking = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in tensors and not name.endswith("num_batches_tracked")
    }
    values = {_sums(tensor) for tensor in tensors.values()} if lacking else set()
    return [
        name
        for name, tensor in lacking.items()
        if _sums(tensor) not in values and name.rpartition(".")[0] not in classifiers
    ]


def _sums(tensor: Tensor) -> tuple[int, float]:
    return tensor.numel(), tensor.double().sum().item()


def checkpoint_classes(tensors: Mapping[str, Tensor], backbone: str) -> int | None:
    """Return the classes that a checkpoint of timm's tells apart, None where that is not seen."""
    for name in _classifiers(backbone):
        if f"{name}.weight" in tensors:
            return tensors[f"{name}.weight"].shape[0]
    return None


def _classifiers(backbone: str) -> tuple[str, ...]:
    """Return the paths of a model's classifiers, as timm knows them."""
    own = timm.get_pretrained_cfg(backbone)
    named: Any = own.classifier if own else None
    return (named,) if isinstance(named, str) else tuple(named or ())


_UNREADABLE = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError,
    pickle.PickleError, SafetensorError, BadZipFile, MemoryError, AssertionError,
)  # fmt: skip
"""What torch, safetensors and timm raise for files that are no checkpoint."""


def read_timm_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint as timm writes it; nothing in it is executed.

    Raises:
        CheckpointError: when the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise CheckpointError(str(path), "there is no such file")
    try:
        _check_plain(path)
        with warnings.catch_warnings():  # on pickles of odd forms: what matters is the outcome
            warnings.simplefilter("ignore")
            tensors = load_state_dict(str(path), device="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        reason = f"it is truncated or no checkpoint ({first_line(error)})"
        raise CheckpointError(str(path), reason) from None
    held = path.stat().st_size
    if not tensors or not all(_is_whole(tensor, held) for tensor in tensors.values()):
        raise CheckpointError(str(path), "it is no checkpoint of a model")
    return tensors


def _check_plain(path: Path) -> None:
    """Raise CheckpointError for files that would take more memory than they have bytes.

    torch stores what it saves as it is: what is compressed comes from elsewhere.
    """
    if path.suffix == ".safetensors":
        check_fits(path, read_header(path).num_bytes)
        return
    check_fits(path, path.stat().st_size)
    if is_zipfile(path):
        with ZipFile(path) as archive:
            if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(str(path), "it is compressed, as torch writes no checkpoint")


def _is_whole(tensor: object, held: int) -> bool:
    """Return whether something is a tensor whose every number is among the bytes of a file."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        return False
    num_bytes = tensor.numel() * tensor.element_size()
    return num_bytes <= min(held, tensor.untyped_storage().nbytes())
