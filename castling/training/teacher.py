"""The initial model and the teacher of a training: loaded anew for each, and checked."""

import json
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
import torch
from safetensors.torch import save as pack_tensors
from torch import nn

from castling.config import Architecture, BackboneConfig, RunConfig
from castling.errors import CheckpointError, ConfigError
from castling.model.architecture import architecture_of
from castling.model.build import config_of
from castling.model.castle import castle
from castling.model.check import read_run_config
from castling.model.convert import build_backbone
from castling.model.storage import load
from castling.model.timm_models import checkpoint_classes, create, create_with
from castling.untrusted.timm_checkpoint import read_timm_checkpoint


PRETRAINED = "pretrained"
"""The value of `train.initial` that downloads timm's weights."""
INITIAL = "initial"
"""The value of `train.distill.teacher` for the model of `train.initial`."""
Shape = tuple[int, int, int]
"""(channel, height, width) of images."""
CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".tar")
"""Suffixes of timm's checkpoints."""


def load_initial(run: RunConfig) -> nn.Module | None:
    """Return the model whose weights a training begins with, or None.

    A model from a folder is castled; one of timm has softmax in every layer, and a random
    classifier if its weights are for other classes. The caller may change it.

    Raises:
        ConfigError: when there is no such model, or it is of other classes or images.
        CheckpointError: when its weights are missing, truncated or of another model.
    """
    initial, model = run.train.initial, run.model
    if initial is None:
        return None
    stock = architecture_of(model).stock()
    path = Path(initial)
    if path.is_dir():
        _check_images("train.initial", path, _shape(model), model.num_classes)
        return load(path).float()
    if initial != PRETRAINED and not path.name.endswith(CHECKPOINTS):
        rule = "must be a folder of castling's, a checkpoint of timm's (.safetensors, .pth) or "
        raise ConfigError("train.initial", f"{rule}`{PRETRAINED}`", initial)
    if stock is None:
        raise ConfigError("train.initial", "must be a folder of castling's here", initial)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.train.fixed_seed())
        weights = None if initial == PRETRAINED else path
        return _timm_initial(stock, weights)


def _timm_initial(model: BackboneConfig, weights: Path | None) -> nn.Module:
    if weights is not None:
        return build_backbone(model, weights=weights)
    _check_downloadable(model.backbone, "train.initial")
    try:
        return build_backbone(model, pretrained=True)
    except (ConfigError, OSError) as error:
        raise _not_fetched(model.backbone, error) from None


def load_teacher(run: RunConfig, initial: nn.Module | None) -> nn.Module:
    """Return the teacher of a training, castled, in evaluation mode, without gradients.

    The caller may change it; it is a copy even if the initial model is the teacher.

    Args:
        run: the training, whose `train.distill` is not None.
        initial: the model whose weights the training begins with, if any.

    Raises:
        ConfigError: when there is no such teacher, or it is of other classes or images.
        CheckpointError: when its weights are missing, truncated or of another model.
    """
    distill = run.train.distill
    assert distill is not None
    if distill.teacher == INITIAL:
        teacher = _original(run, initial)
    else:
        shape = _shape(run.model)
        teacher = _named_teacher(distill.teacher, distill.weights, shape, run.model.num_classes)
    return castle(teacher).requires_grad_(requires_grad=False)


def _original(run: RunConfig, initial: nn.Module | None) -> nn.Module:
    if initial is None:
        raise ConfigError(
            "train.distill.teacher",
            "must be a folder of castling's or a model of timm where the training begins with no "
            "weights",
            INITIAL,
            "set train.initial (--from), or name a teacher",
        )
    source, stock = run.train.initial, architecture_of(run.model).stock()
    if stock is not None and source is not None and not Path(source).is_dir():
        _check_classes(_timm_classes(stock.backbone, source), stock.num_classes)
    return initial


def _timm_classes(backbone: str, initial: str) -> int | None:
    """Return the number of classes of the initial weights; None if they do not show it."""
    if initial != PRETRAINED:
        return checkpoint_classes(read_timm_checkpoint(Path(initial)), backbone)
    pretrained = timm.get_pretrained_cfg(backbone)
    return pretrained.num_classes if pretrained else None


def _named_teacher(name: str, weights: Path | None, shape: Shape, num_classes: int) -> nn.Module:
    folder = Path(name)
    if folder.is_dir():
        if weights is not None:
            rule = "must be left out for a folder of castling's, which holds its own"
            raise ConfigError("train.distill.weights", rule, str(weights))
        _check_images("train.distill.teacher", folder, shape, num_classes)
        return load(folder).float()
    if not timm.is_model(name):
        raise ConfigError(
            "train.distill.teacher",
            f"must be `{INITIAL}`, a folder of castling's or timm's name of a model",
            name,
        )
    if weights is None:
        return _downloaded_teacher(name, shape, num_classes)
    return _stored_teacher(name, weights, shape, num_classes)


def _downloaded_teacher(name: str, shape: Shape, num_classes: int) -> nn.Module:
    _check_downloadable(name, "train.distill.weights")
    pretrained = timm.get_pretrained_cfg(name)
    assert pretrained is not None  # it has weights
    _check_classes(pretrained.num_classes, num_classes)
    size = pretrained.input_size[1:] if pretrained.fixed_input_size else shape[1:]
    images = (pretrained.input_size[0], *size)
    if images != shape:
        raise ConfigError("train.distill.teacher", _images_rule(shape), f"{name}: {images}")
    try:
        return create(name, pretrained=True)
    except (ConfigError, OSError) as error:
        raise _not_fetched(name, error) from None


def _stored_teacher(name: str, weights: Path, shape: Shape, num_classes: int) -> nn.Module:
    tensors = read_timm_checkpoint(weights)
    _check_classes(checkpoint_classes(tensors, name), num_classes)
    pretrained = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"in_chans": shape[0], "num_classes": num_classes}
    if pretrained is None or pretrained.fixed_input_size:
        options["img_size"] = shape[1:]
    teacher = create_with(weights, tensors, name, **options)
    built = teacher.state_dict()
    adapted = [n for n, t in tensors.items() if n in built and built[n].numel() != t.numel()]
    if adapted:  # by timm, in silence: what it would teach is no longer what it learned
        raise ConfigError("train.distill.teacher", _images_rule(shape), f"{name}: {adapted[0]}")
    return teacher


def check_weights(run: RunConfig) -> None:
    """Raise the error of a training whose initial weights or teacher are missing."""
    initial = load_initial(run)
    if run.train.distill is not None:
        load_teacher(run, initial)


def located(run: RunConfig) -> RunConfig:
    """Return a run that names its weights by absolute paths, for a process in another folder."""
    train = run.train
    if train.initial not in (None, PRETRAINED):
        train = train.replace(initial=str(Path(str(train.initial)).absolute()))
    distill = train.distill
    if distill is not None and distill.weights is not None:
        distill = distill.replace(weights=distill.weights.absolute())
    if distill is not None and Path(distill.teacher).is_dir():
        distill = distill.replace(teacher=str(Path(distill.teacher).absolute()))
    return run.replace(train=train.replace(distill=distill))


def _images_rule(shape: Shape) -> str:
    return f"must take the model's images of {shape} channels, height, width"


def _check_classes(num_classes: int | None, needed: int) -> None:
    if num_classes is not None and num_classes != needed:
        raise ConfigError(
            "train.distill.teacher",
            f"must tell the model's {needed:,} classes apart",
            f"{num_classes:,} classes",
            "choose a teacher of the same data",
        )


def _check_downloadable(name: str, field: str) -> None:
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None or not pretrained.has_weights:
        raise ConfigError(field, f"must be a checkpoint: timm has no weights of {name}")


def _check_images(field: str, folder: Path, shape: Shape, num_classes: int) -> None:
    """Raise ConfigError unless a folder's model is for the same images and classes."""
    model = read_run_config(folder).model
    for name, got, needed in (
        ("num_classes", model.num_classes, num_classes),
        ("channels", model.channels, shape[0]),
        ("image_size", model.image_size, shape[1:]),
    ):
        if got != needed:
            raise ConfigError(field, f"must be a model with the {name} {needed} of this one", got)


def _shape(model: Architecture) -> Shape:
    return (model.channels, *model.image_size)


def _not_fetched(name: str, error: Exception) -> CheckpointError:
    reason = shorten(str(error) or type(error).__name__, 160, placeholder=" ...")
    fix = "check the connection, or name a file in train.initial, --from or train.distill.weights"
    return CheckpointError(f"timm's {name}", f"its weights cannot be fetched ({reason})", fix)


def digest_of(model: nn.Module) -> str:
    """Return the hash of a model's weights, and of its config if it has one."""
    try:
        described = json.dumps(config_of(model).to_data(), sort_keys=True)
    except ConfigError:
        described = type(model).__name__
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    return sha256(described.encode() + pack_tensors(tensors)).hexdigest()
