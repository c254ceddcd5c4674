"""What `castling.save` and `castling.load` promise of a model, whatever it was cast to."""

from pathlib import Path

import torch
from torch import nn

import castling
from castling.model.build import config_of
from castling.model.storage import WEIGHTS_FILE
from castling.untrusted.tensor_file import read_tensors


def assert_saved_and_loaded(model: nn.Module, folder: Path) -> None:
    """Check that the file holds the model's state and that loading gives the castled model.

    Args:
        model: of castling's.
        folder: an empty one, for the file.
    """
    castling.save(model, folder)
    _assert_equal(read_tensors(folder / WEIGHTS_FILE)[0], model.state_dict())
    castled, loaded = castling.castle(model), castling.load(folder)
    _assert_equal(loaded.state_dict(), castled.state_dict())
    config = config_of(castled)
    shape = (2, config.channels, *config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    images = images.to(next(model.parameters()).dtype)
    with torch.inference_mode():
        assert torch.equal(loaded(images), castled(images))


def _assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name
