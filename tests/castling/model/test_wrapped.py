from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from castling.config import ModelConfig
from castling.model.build import build, config_of
from castling.model.castle import castle, is_castled
from castling.model.storage import load, read_tensors, save, save_weights
from castling.model.wrapped import unwrapped


@pytest.fixture(params=["ddp", "compiled", "both"])
def wrapped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[nn.Module]:
    model = build(ModelConfig(), seed=0)
    if request.param == "compiled":
        yield torch.compile(model, backend="eager")  # type: ignore[misc]
        return
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    inner = model if request.param == "ddp" else torch.compile(model, backend="eager")
    yield nn.parallel.DistributedDataParallel(inner)  # type: ignore[arg-type]
    dist.destroy_process_group()


def test_a_wrapped_model_is_castled_and_stored_as_itself(
    wrapped: nn.Module, tmp_path: Path
) -> None:
    model = unwrapped(wrapped)
    assert config_of(wrapped) is model.config
    castled = castle(wrapped)
    assert is_castled(castled)
    assert castled.state_dict().keys() == castle(model).state_dict().keys()
    save_weights(wrapped, tmp_path / "weights.safetensors")
    assert read_tensors(tmp_path / "weights.safetensors")[0].keys() == model.state_dict().keys()
    save(wrapped, tmp_path / "folder")
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load(tmp_path / "folder")(images), castle(model)(images))
