from pathlib import Path

import pytest
import ranks
import torch

from castling.config import BlockConfig, MaskSchedule, RunConfig


STEPS, BATCH = 8, 33
"""Steps of an epoch, the last with one image: fewer than the processes."""


def runs(tiny: RunConfig) -> dict[str, RunConfig]:
    """Trainings without drop path: masks that empty in mid-training, batches in parts, gates.

    Biases of softmax's keys have no gradient but rounding errors, which AdamW's `eps` must exceed.
    """
    mask = MaskSchedule(end=0.9, l1_weight=0.1)
    masked = tuple(block.replace(mask=mask, drop_path=0.0) for block in tiny.model.blocks)
    data = tiny.data.replace(num_train=(STEPS - 1) * BATCH + 1, num_validation=251)
    train = tiny.train.replace(epochs=1, batch_size=BATCH, clip_norm=1.0, eps=1e-6)
    plain = tiny.replace(
        model=tiny.model.replace(blocks=masked), data=data, train=train.replace(ema_decay=0.9)
    )
    gated = BlockConfig(operator="softmax", num_heads=2, head_size=8, mlp="shrinking")
    return {
        "masks": plain,
        "parts": plain.replace(train=train.replace(accumulation=3)),
        "gates": plain.replace(
            model=tiny.model.replace(blocks=(gated,)),
            train=train.replace(gate_target=0.3, gate_weight=3.0),
        ),
    }


def test_two_processes_train_as_one_does(tiny: RunConfig, tmp_path: Path) -> None:
    trainings = runs(tiny)
    found = ranks.together(trainings, STEPS, tmp_path)
    for name, run in trainings.items():
        weights, metrics = ranks.alone(run, STEPS)
        (first, one), (second, other) = found[name]
        assert metrics is not None
        for key, weight in weights.items():
            assert torch.equal(first[key], second[key]), (name, key)
            torch.testing.assert_close(first[key], weight, rtol=0.0, atol=1e-6, msg=key)
        for key in ("loss", "top1", "top1_branch"):
            assert one[key] == other[key]
            assert one[key] == pytest.approx(metrics.metrics[key], abs=1e-5)
        assert one["mask_density"] == pytest.approx(metrics.mask_density, abs=1e-5)
