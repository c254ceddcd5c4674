import time
from pathlib import Path

import pytest
import ranks
import torch

from castling.config import BlockConfig, MaskSchedule, RunConfig
from castling.errors import ConfigError, UnreachableError
from castling.model.build import build
from castling.training.execution import SingleProcess, connected
from castling.training.optimizer import batch_sizes
from castling.training.order import Parts


STEPS, BATCH = 8, 33
"""Steps of an epoch, the last with one image: fewer than the processes."""


def runs(tiny: RunConfig) -> dict[str, RunConfig]:
    """Trainings without drop path: masks that empty in mid-training, batches in parts, gates.

    Biases of softmax's keys have no gradient but rounding errors, which AdamW's `eps` must exceed.
    """
    mask = MaskSchedule(end=0.9, l1_weight=0.1)
    masked = tuple(block.replace(mask=mask, drop_path=0.0) for block in tiny.model.blocks)
    skipping = BlockConfig(operator="skip", num_heads=2, head_size=8, mlp_ratio=1.0)
    data = tiny.data.replace(num_train=(STEPS - 1) * BATCH + 1, num_validation=251)
    train = tiny.train.replace(epochs=1, batch_size=BATCH, clip_norm=1.0, eps=1e-6)
    plain = tiny.replace(
        model=tiny.model.replace(blocks=(*masked, skipping)),
        data=data,
        train=train.replace(ema_decay=0.9),
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


def test_processes_that_do_not_come_are_waited_for_as_long_as_said() -> None:
    port = ranks.free_port()
    started, device = time.monotonic(), torch.device("cpu")
    with (
        pytest.raises(UnreachableError) as caught,
        connected("127.0.0.1", port, 0, 2, device=device, seconds=1.0),
    ):
        pass
    assert 0.5 < time.monotonic() - started < 10.0
    for part in (f"127.0.0.1:{port}", "2 processes", "within 1 s", "firewall", "SOCKET_IFNAME"):
        assert part in str(caught.value)


class Rank(SingleProcess):
    """One of several processes, which do not talk."""

    def __init__(self, rank: int, processes: int) -> None:
        super().__init__("cpu")
        self.rank, self.num_processes = rank, processes

    def shard(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.tensor_split(self.num_processes)[self.rank]


def test_processes_that_read_their_own_part_read_each_image_once() -> None:
    order, sizes = torch.arange(13), [5, 5, 3]
    parts = [Parts.of(order, sizes, Rank(rank, 4), alone=True) for rank in range(4)]
    for step, size in enumerate(sizes):
        read = [part.order.split(part.sizes)[step] for part in parts]
        if size < 4:  # fewer images than processes: each reads all, and takes its part later
            assert all(torch.equal(rows, order[-3:]) for rows in read)
            assert [part.num_all[step] for part in parts] == [None] * 4
        else:
            assert torch.equal(torch.cat(read), order.split(sizes)[step])
            assert [part.num_all[step] for part in parts] == [size] * 4
    everything = Parts.of(order, sizes, Rank(1, 4), alone=False)
    assert torch.equal(everything.order, order)
    assert everything.num_all == [None] * 3


def test_batch_norms_have_two_images_in_every_process(tiny: RunConfig) -> None:
    normed = BlockConfig(operator="spvit_gated", num_heads=2, head_size=8)
    model = build(tiny.model.replace(blocks=(normed,)), seed=0)
    assert batch_sizes(model, 35, 16, 2) == [16, 19]
    assert batch_sizes(model, 36, 16, 2) == [16, 16, 4]
    with pytest.raises(ConfigError, match="at least 8, of at least 8 images"):
        batch_sizes(model, 36, 7, 4)
