"""Models as folders: config.yaml and model.safetensors, nothing pickled."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from textwrap import shorten

import torch
from safetensors.torch import save as pack_tensors
from torch import Tensor, nn

from castling.config import Architecture, BackboneConfig, LayerChoice, RunConfig
from castling.errors import CheckpointError, ConfigError
from castling.files import write_yaml
from castling.model.build import build, config_of
from castling.model.castle import castle, is_castled
from castling.model.check import read_run_config
from castling.model.keep import is_progress, keep_weights, strange_progress
from castling.model.pretrained import check_preprocessing, describe, described
from castling.model.structure import plain_attributes
from castling.model.wrapped import unwrapped
from castling.untrusted.tensor_file import (
    TensorHeader,
    bytes_of,
    read_header,
    read_tensors,
    write_tensors,
)


CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.safetensors"
SLACK = 2**20
"""Bytes by which a file of weights may exceed those of its model."""
PRECISIONS = {
    "F32": torch.float32,
    "F64": torch.float64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""What the weights of a model may be cast to, all of them together; by safetensors' names."""


def save(model: nn.Module, folder: str | Path, run: RunConfig | None = None) -> None:
    """Write a model's config and weights to a folder, in the precision that the model has.

    Args:
        model: training or castled model.
        folder: made if missing.
        run: the training config to store with the weights; by default one with only the model,
            and with the preprocessing that the model was loaded with, or has as one of timm.

    Raises:
        ConfigError: when the model has no config, so that timm cannot build it anew; or when
            `load` would refuse its weights, such as those of several precisions.
    """
    folder, model = Path(folder), unwrapped(model)
    if run is None:
        config = config_of(model)
        preprocessing, task = described(model, config)
        run = RunConfig(model=config, preprocessing=preprocessing, task=task)
    _check_loadable(model, run.model)
    save_weights(model, folder / WEIGHTS_FILE)
    write_yaml(folder / CONFIG_FILE, run.to_data())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights atomically, with a note whether they are castled.

    Equal weights are equal bytes: the note is one entry, as safetensors shuffles several.
    """
    model = unwrapped(model)
    castled = "true" if is_castled(model) else "false"
    write_tensors(path, model.state_dict(), {"castled": castled})


def _check_loadable(model: nn.Module, config: Architecture) -> None:
    """Raise ConfigError unless a model's state is one that `load_weights` takes for its config."""
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        rule = "must have weights to be saved, it is on the meta device"
        raise ConfigError("model", rule, fix="give it some: model.to_empty, load_state_dict")
    precisions = {tensor.dtype for name, tensor in state.items() if _is_weight(name, tensor)}
    if len(precisions) > 1 or not precisions <= {*PRECISIONS.values()}:
        kinds = [str(kind).removeprefix("torch.") for kind in PRECISIONS.values()]
        rule = f"must have all its weights in one of {', '.join(kinds)} to be saved"
        got = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in precisions))
        raise ConfigError("model", rule, got, "cast the whole of it, as model.float() does")
    with torch.device("meta"):
        rebuilt = build(config.castled() if is_castled(model) else config)
    anew = rebuilt.state_dict()
    for name in [*(anew.keys() ^ state.keys()), *(anew.keys() & state.keys())]:
        if name not in anew or name not in state or _kind(anew[name]) != _kind(state[name]):
            rule = f"must have the weights that its config asks for to be saved ({name} differs)"
            raise ConfigError("model", rule, fix="build it anew from a config that fits")
    _check_attributes(model, rebuilt)


def _check_attributes(model: nn.Module, rebuilt: nn.Module) -> None:
    """Raise ConfigError when a plain attribute, such as the pooling, is not that of the config."""
    here, there = plain_attributes(model), plain_attributes(rebuilt)
    for place in sorted(here.keys() & there.keys()):
        if here[place] != there[place]:
            path, _, name = place.rpartition(":")
            where = ".".join(part for part in (path, name) if part)
            rule = f"must have the {where} that its config gives, {there[place]!r}, to be saved"
            fix = f"build it with {name} among its options, or set it back"
            raise ConfigError("model", rule, here[place], fix)


def _is_weight(name: str, tensor: Tensor) -> bool:
    """Return whether a cast of a model would change the tensor."""
    return not is_progress(name) and (tensor.is_floating_point() or tensor.is_complex())


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype | None]:
    """Return the properties that a cast does not change: the shape, and the type of counts."""
    return tensor.shape, None if tensor.is_floating_point() else tensor.dtype


def load(folder: str | Path) -> nn.Module:
    """Return the castled model of a folder, in eval mode, on the CPU.

    `model.predict(picture)` gives the classes of a picture with their probabilities, and
    `model.pretrained_cfg` is what timm's functions for transforms ask for.

    Its weights have the precision in which they were saved: float32, unless the model was cast.

    Raises:
        ConfigError: when config.yaml is missing or inconsistent.
        CheckpointError: when the weights are missing, truncated or of another model.
    """
    folder = Path(folder)
    run = read_run_config(folder)
    check_preprocessing(run.preprocessing, run.model)
    model = load_weights(run.model, folder / WEIGHTS_FILE)
    return describe(model, run.model, run.preprocessing, run.task)


def load_weights(config: Architecture, path: Path) -> nn.Module:
    """Return the castled model of a config and its weights; CheckpointError if they disagree."""
    header = read_header(path)
    if header.metadata.get("castled") != "false":
        config = config.castled()
    model = build(config, seed=0).to(_precision(header))
    expected = model.state_dict()
    tensors, _ = read_tensors(path, most_bytes=2 * bytes_of(expected) + SLACK)
    problem = _foreign(expected, tensors)
    if problem is None:
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            problem = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            problem = shorten(problem, 160, placeholder=" ...")
    if problem is not None:
        raise CheckpointError(str(path), f"it holds another model ({problem})") from None
    return castle(model)


def _precision(header: TensorHeader) -> torch.dtype:
    """Return the precision that all weights of a file have; float32 where they differ."""
    precisions = {
        PRECISIONS[info.dtype]
        for name, info in header.tensors.items()
        if info.dtype in PRECISIONS and not is_progress(name)
    }
    return precisions.pop() if len(precisions) == 1 else torch.float32


def _foreign(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that torch would load although it does not fit, if any.

    The progress may have any precision: castling 0.1 cast it with the weights.
    """
    for name in expected.keys() & tensors.keys():
        cast = is_progress(name) and tensors[name].dtype in PRECISIONS.values()
        if tensors[name].dtype != expected[name].dtype and not cast:
            return f"{name} is {tensors[name].dtype}"
    strange = strange_progress(tensors)
    return None if strange is None else f"{strange} is no fraction of a training"


def begin_with(model: nn.Module, initial: nn.Module) -> str:
    """Copy another model's weights into a training model; return their hash.

    The two may differ in the choices of their attention layers: tensors with the same name in both
    are copied, such as the projections of a softmax layer that is converted.

    Raises:
        CheckpointError: when the other is of another architecture.
    """
    if _skeleton(config_of(model)) != _skeleton(config_of(initial)):
        raise CheckpointError("the initial weights", "they are of another architecture")
    weights = keep_weights(model, initial.state_dict())
    return sha256(pack_tensors({key: value.cpu() for key, value in weights.items()})).hexdigest()


def _skeleton(config: Architecture) -> Architecture:
    """Return the config with every layer's choice at the default, and without drop path."""
    default = {name: field.default for name, field in LayerChoice.model_fields.items()}
    default |= {"operator": "softmax", "options": {}}
    if isinstance(config, BackboneConfig):
        options = {
            name: value for name, value in config.options.items() if name != "drop_path_rate"
        }
        config = config.replace(options=options)
    else:
        default["drop_path"] = 0.0
    return config.replace(blocks=tuple(block.replace(**default) for block in config.blocks))
