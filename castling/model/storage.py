"""Models as folders: config.yaml and model.safetensors, nothing pickled."""

import json
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from textwrap import shorten

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors, save as pack_tensors
from torch import Tensor, nn

from castling.config import Architecture, LayerChoice, RunConfig, read_run_config
from castling.errors import CheckpointError
from castling.files import write_bytes, write_yaml
from castling.model.build import build, config_of
from castling.model.castle import castle, is_castled
from castling.model.keep import keep_weights


CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and their metadata atomically as safetensors."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, pack_tensors(whole, metadata=dict(metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: when the file is missing, truncated or of another format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(str(path), f"it cannot be read ({error.strerror})") from None
    try:
        tensors = parse_tensors(content)
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except (SafetensorError, KeyError, ValueError, struct.error) as error:
        raise CheckpointError(str(path), f"it is truncated or not safetensors ({error})") from None
    return tensors, header.get("__metadata__", {})


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
    tensors, metadata = read_tensors(path)
    if metadata.get("castled") != "false":
        config = config.castled()
    model = build(config, seed=0)
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
    name in both is kept, as the projections of a softmax layer that castles.

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
