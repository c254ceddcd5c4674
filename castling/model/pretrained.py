"""What a model says of itself in timm's terms: its `pretrained_cfg`, and its `predict`."""

from typing import Any

from torch import nn

from castling.config import DEFAULT_TASK, Architecture, ModelConfig, Preprocessing
from castling.errors import ConfigError
from castling.model.prediction import Predictor


TRANSFORM = ("mean", "std", "interpolation", "crop_mode", "crop_pct")
"""The fields of a pretrained_cfg that `Preprocessing` has under the same names."""


def describe(
    model: nn.Module,
    config: Architecture,
    preprocessing: Preprocessing | None = None,
    task: str = DEFAULT_TASK,
) -> nn.Module:
    """Give a model `predict`, `pretrained_cfg` and `default_cfg` that are true; return it.

    timm's `resolve_model_data_config(model)` and `create_transform` then give the transform of
    its training. A model of timm keeps what else its pretrained_cfg says.

    Args:
        model: built from the config.
        config: its size, channels and classes.
        preprocessing: of its training; without one, nothing is said of mean, std and crop of a
            CastlingViT, and a model of timm keeps what it says.
        task: by its name.

    Raises:
        ConfigError: when the preprocessing is of another image size or other channels.
    """
    check_preprocessing(preprocessing, config)
    facts: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    if isinstance(config, ModelConfig):
        facts |= {
            "architecture": "castling_vit",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "fixed_input_size": True,
        }
    facts |= {"num_classes": config.num_classes}
    facts |= {"input_size": (config.channels, *config.image_size)}
    if preprocessing is not None:
        facts |= {name: getattr(preprocessing, name) for name in TRANSFORM}
        if len(preprocessing.classes) == config.num_classes:
            facts["label_names"] = [*preprocessing.classes]
    parts: Any = model
    parts.pretrained_cfg = parts.default_cfg = facts
    parts.predict = Predictor(model, preprocessing, task)
    return model


def check_preprocessing(preprocessing: Preprocessing | None, config: Architecture) -> None:
    """Raise ConfigError unless a preprocessing gives the images that a model takes."""
    if preprocessing is None:
        return
    for field in ("image_size", "channels"):
        needed, got = getattr(config, field), getattr(preprocessing, field)
        if got != needed:
            raise ConfigError(f"preprocessing.{field}", f"must be the model's, {needed}", got)


def described(model: nn.Module, config: Architecture) -> tuple[Preprocessing | None, str]:
    """Return the preprocessing and the task that a model is to be saved with.

    They are those that `describe` gave it, else what a model of timm says of its weights.
    """
    predict = getattr(model, "predict", None)
    if isinstance(predict, Predictor):
        return predict.preprocessing, predict.task
    facts: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if len(facts.get("mean") or ()) != config.channels:
        return None, DEFAULT_TASK
    try:
        found = Preprocessing(
            image_size=config.image_size,
            channels=config.channels,
            classes=tuple(facts.get("label_names") or ()),
            **{name: facts[name] for name in TRANSFORM if facts.get(name)},
        )
    except ConfigError:  # such as timm's interpolation `random`
        return None, DEFAULT_TASK
    return found, DEFAULT_TASK
