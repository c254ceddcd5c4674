"""`castling_vit` among timm's models, built from a config file."""

from pathlib import Path
from typing import Any

from timm.models import register_model
from torch import nn

from castling.errors import ConfigError
from castling.model.build import build
from castling.model.check import read_run_config
from castling.model.pretrained import describe
from castling.model.storage import load


@register_model
def castling_vit(
    pretrained: bool = False,  # noqa: FBT001, FBT002 - timm's signature
    config: str | Path | None = None,
    **timm_options: Any,
) -> nn.Module:
    """Return the castled model of a folder, with its weights if pretrained, else ready to train.

    Args:
        pretrained: load the folder's weights; the model is then castled and in eval mode.
        config: a config.yaml or the folder of one.
        timm_options: what timm passes to every model; only unset options are accepted.

    Raises:
        ConfigError: when the config is missing or an option is not for this model.
    """
    if config is None:
        raise ConfigError("config", "is required", fix='pass config="best/config.yaml"')
    options = {name: value for name, value in timm_options.items() if value is not None}
    options = {
        name: value for name, value in options.items() if not name.startswith("pretrained_cfg")
    }
    if options:
        raise ConfigError("castling_vit", "takes its options from the config", sorted(options))
    path = Path(config)
    if pretrained:
        return load(path if path.is_dir() else path.parent)
    run = read_run_config(path)
    return describe(build(run.model), run.model, run.preprocessing, run.task)
