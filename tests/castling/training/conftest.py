"""A training of a few hundredths of a second: digits, two small blocks, few images."""

import pytest

from castling.config import (
    AugmentConfig,
    BlockConfig,
    DataConfig,
    MaskSchedule,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from castling.training.data import TrainingData, load_data


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    """A linear-angular block with a branch and a softmax block; 4 epochs of 3 steps."""
    blocks = (
        BlockConfig(num_heads=2, head_size=8, conv_kernel=3, conv_form="grid", mlp_ratio=2.0),
        BlockConfig(operator="softmax", num_heads=2, head_size=8, mlp_ratio=2.0),
        BlockConfig(
            num_heads=2, head_size=8, mlp_ratio=1.0, mask=MaskSchedule(shape="cosine", end=0.5)
        ),
    )
    return RunConfig(
        model=ModelConfig(embed_width=16, blocks=blocks),
        train=TrainConfig(epochs=4, batch_size=32),
        data=DataConfig(num_train=90, num_validation=60),
    )


@pytest.fixture(scope="session")
def everything_on(tiny: RunConfig) -> RunConfig:
    """Drop path, every augmentation, bfloat16 and an L1 weight."""
    blocks = tuple(
        block.replace(drop_path=0.3, mask=MaskSchedule(end=1.0, l1_weight=0.1))
        for block in tiny.model.blocks
    )
    augment = AugmentConfig(shift=0.1, rotate=10.0, scale=0.1, flip=True, erase=0.3)
    return tiny.replace(
        model=tiny.model.replace(blocks=blocks, pooling="cls"),
        train=tiny.train.replace(augment=augment, precision="bfloat16"),
    )


@pytest.fixture(scope="session")
def digits(tiny: RunConfig) -> TrainingData:
    return load_data(tiny.data, tiny.model)
