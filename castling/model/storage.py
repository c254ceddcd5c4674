"""Models as folders: config.yaml and model.safetensors, nothing pickled."""

from hashlib import sha256
from pathlib import Path
from textwrap import shorten

from safetensors.torch import save as pack_tensors
from torch import nn

from castling.config import Architecture, LayerChoice, RunConfig
from castling.errors import CheckpointError
from castling.files import write_yaml
from castling.model.build import build, config_of
from castling.model.castle import castle, is_castled
from castling.model.check import read_run_config
from castling.model.keep import keep_weights
from castling.model.tensor_file import bytes_of, read_header, read_tensors, write_tensors


CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.safetensors"
SLACK = 2**20
"""Bytes by which weights may exceed their model's before they are known to be another's."""


def save(model: nn.Module, folder: str | Path, run: RunConfig | None = None) -> None:
    """Write a model's config and weights to a folder.

    Args:
        model: training or castled model.
        folder: made if missing.
        run: the training config to keep beside the weights; by default one with only the model.

    Raises:
        ConfigError: when the model has no config: timm cannot build it anew.
    """
    folder = Path(folder)
    if run is None:
        run = RunConfig(model=config_of(model))
    save_weights(model, folder / WEIGHTS_FILE)
    write_yaml(folder / CONFIG_FILE, run.to_data())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights atomically, with a note whether they are castled.

    Equal weights are equal bytes: the note is one entry, as safetensors shuffles several.
    """
    castled = "true" if is_castled(model) else "false"
    write_tensors(path, model.state_dict(), {"castled": castled})


def load(folder: str | Path) -> nn.Module:
    """Return the castled model of a folder, in eval mode, on the CPU.

    Raises:
        ConfigError: when config.yaml is missing or inconsistent.
        CheckpointError: when the weights are missing, truncated or of another model.
    """
    folder = Path(folder)
    return load_weights(read_run_config(folder).model, folder / WEIGHTS_FILE)


def load_weights(config: Architecture, path: Path) -> nn.Module:
    """Return the castled model of a config and its weights; CheckpointError if they disagree."""
    if read_header(path).metadata.get("castled") != "false":
        config = config.castled()
    model = build(config, seed=0)
    own = model.state_dict()
    tensors, _ = read_tensors(path, most_bytes=2 * bytes_of(own) + SLACK)
    for name in own.keys() & tensors.keys():
        if tensors[name].dtype != own[name].dtype:
            reason = f"it holds another model ({name} is {tensors[name].dtype})"
            raise CheckpointError(str(path), reason)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        problem = shorten(problem, 160, placeholder=" ...")
        raise CheckpointError(str(path), f"it holds another model ({problem})") from None
    return castle(model)


def begin_with(model: nn.Module, initial: nn.Module) -> str:
    """Copy another model's weights into a training model; return their hash.

    The two may differ in the choices of their attention layers: what a layer has under the same
    name in both is kept, as the projections of a softmax layer that is converted.

    Raises:
        CheckpointError: when the other is of another architecture.
    """
    if _skeleton(config_of(model)) != _skeleton(config_of(initial)):
        raise CheckpointError("the initial weights", "they are of another architecture")
    weights = keep_weights(model, initial.state_dict())
    return sha256(pack_tensors({key: value.cpu() for key, value in weights.items()})).hexdigest()


def _skeleton(config: Architecture) -> Architecture:
    """Return the config with every layer's choice at the default."""
    default = {name: field.default for name, field in LayerChoice.model_fields.items()}
    default |= {"operator": "softmax", "options": {}}
    return config.replace(blocks=tuple(block.replace(**default) for block in config.blocks))
