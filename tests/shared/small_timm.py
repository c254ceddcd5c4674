"""Small models of families whose architectures in timm fix depths and widths, known to timm."""

import sys
from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import nn


FINDING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


def registered(name: str, family: Callable[..., nn.Module], **small: Any) -> str:
    """Return the name under which timm now creates a family's model of these options."""

    def create(**options: Any) -> nn.Module:
        chosen = {key: value for key, value in options.items() if key not in FINDING}
        return family(**small | chosen)

    create.__name__, create.__module__ = f"castling_test_{name}", __name__
    if not hasattr(sys.modules[__name__], create.__name__):
        setattr(sys.modules[__name__], create.__name__, create)
        register_model(create)
    return create.__name__
