from pathlib import Path

import pytest
import timm
import torch

import castling
import castling.model
from castling.config import BlockConfig, ModelConfig
from castling.errors import CheckpointError, ConfigError
from castling.model.castle import castle, is_castled


CONFIG = ModelConfig(embed_width=16, blocks=(BlockConfig(), BlockConfig(operator="softmax")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    castling.save(castling.build(CONFIG, seed=0), tmp_path)
    return tmp_path


def test_timm_builds_the_training_model_of_a_folder_or_a_file(folder: Path) -> None:
    for config in (folder, str(folder / "config.yaml")):
        model = timm.create_model("castling_vit", config=config)
        assert model.config == CONFIG
        assert model.training
        assert not is_castled(model)


def test_timm_loads_the_castled_model_with_its_weights(folder: Path) -> None:
    expected = castle(castling.build(CONFIG, seed=0))
    images = torch.randn(2, 1, 8, 8)
    for config in (folder, folder / "config.yaml"):
        model = timm.create_model("castling_vit", pretrained=True, config=config)
        assert is_castled(model)
        assert torch.equal(model(images), expected(images))


def test_what_cannot_be_built_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="config: is required"):
        timm.create_model("castling_vit")
    with pytest.raises(ConfigError, match=r"takes its options from the config.*num_classes"):
        timm.create_model("castling_vit", config=folder, num_classes=5)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        timm.create_model("castling_vit", pretrained=True, config=folder)
