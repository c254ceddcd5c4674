"""Every field of TrainConfig acts: two short trainings of digits, or a formula."""

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from castling.config import BlockConfig, ModelConfig, RunConfig, TrainConfig
from castling.data.batches import Batch
from castling.errors import ConfigError, DivergedError
from castling.model.build import build
from castling.model.castle import castle
from castling.training import step
from castling.training.data import TrainingData
from castling.training.evaluation import evaluate
from castling.training.execution import SingleProcess
from castling.training.loop import Trained, train
from castling.training.optimizer import make_optimizer, parameter_groups
from castling.training.precision import arithmetic, check_precision
from castling.training.readings import Readings
from castling.training.schedule import learning_rate
from castling.training.trainer import Trainer


def changed(run: RunConfig, **fields: Any) -> RunConfig:
    return run.replace(train=run.train.replace(**fields))


def weights(trained: Trained) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trained.model.parameters()).detach()


@pytest.fixture(scope="module")
def plain(tiny: RunConfig, digits: TrainingData) -> torch.Tensor:
    return weights(train(changed(tiny, epochs=1), digits))


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"optimizer": name}
            for name in ["adam", "nadamw", "lamb", "lion", "muon", "sgd", "rmsproptf"]
        ),
        {"betas": (0.5, 0.9)},
        {"eps": 1e-2},
        {"layer_decay": 0.5},
        {"learning_rate_base_batch": 64},
        {"schedule": "linear"},
        {"schedule": "constant"},
        {"schedule": "step", "decay_epochs": 0.3, "decay_rate": 0.5},
        {"final_rate": 1e-3},
        {"warmup_epochs": 0.7},
        {"warmup": 0.7, "warmup_rate": 1e-3},
        {"clip_norm": 0.1},
        {"clip_norm": 0.01, "clip_mode": "agc"},
        {"clip_norm": 0.001, "clip_mode": "value"},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"ema_decay": 0.5, "keep": "ema"},
    ],
    ids=str,
)
def test_a_field_acts(
    fields: dict[str, Any], tiny: RunConfig, digits: TrainingData, plain: torch.Tensor
) -> None:
    changed_weights = weights(train(changed(tiny, epochs=1, **fields), digits))
    assert torch.isfinite(changed_weights).all()
    assert not torch.equal(changed_weights, plain)


def test_momentum_acts(tiny: RunConfig, digits: TrainingData) -> None:
    low, high = (
        weights(train(changed(tiny, epochs=1, optimizer="sgd", momentum=value), digits))
        for value in (0.1, 0.9)
    )
    assert not torch.equal(low, high)


@pytest.mark.parametrize(
    "fields", [{"precision": "auto"}, {"clip_norm": None}, {"checkpoint_minutes": 1.0}], ids=str
)
def test_a_field_changes_no_weight_of_this_training(
    fields: dict[str, Any], tiny: RunConfig, digits: TrainingData, plain: torch.Tensor
) -> None:
    assert torch.equal(weights(train(changed(tiny, epochs=1, **fields), digits)), plain)


@pytest.mark.parametrize("parts", [2, 3, 32])
def test_parts_of_a_batch_add_up_to_its_gradient(
    parts: int, tiny: RunConfig, digits: TrainingData, plain: torch.Tensor
) -> None:
    run = changed(tiny, epochs=1, optimizer="sgd")
    whole, divided = (train(changed(run, accumulation=count), digits) for count in (1, parts))
    torch.testing.assert_close(weights(divided), weights(whole), rtol=1e-4, atol=1e-6)
    losses = [trained.metrics.metrics["loss"] for trained in (whole, divided)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class OneOf(SingleProcess):
    """One of several processes, whose gradients are kept apart."""

    def __init__(self, rank: int, num_processes: int) -> None:
        super().__init__("cpu")
        self.rank, self.num_processes = rank, num_processes

    def shard(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.tensor_split(self.num_processes)[self.rank]


@pytest.mark.parametrize("processes", [2, 5])
def test_the_mean_gradient_of_processes_is_that_of_one(
    processes: int, tiny: RunConfig, digits: TrainingData
) -> None:
    batch = Batch(torch.randn(7, 1, 8, 8), torch.arange(7))
    run = changed(tiny, clip_norm=None, accumulation=2)
    gradients = []
    for count in (1, processes):
        parts = []
        for rank in range(count):
            trainer = Trainer(run, digits, OneOf(rank, count))
            trainer._stepper.step(batch, 0.0)
            grads = [part.grad for part in trainer.model.parameters() if part.grad is not None]
            parts.append(nn.utils.parameters_to_vector(grads))
        gradients.append(torch.stack(parts).mean(0))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_rates_of_the_recipes() -> None:
    deit = TrainConfig(
        epochs=300,
        batch_size=1024,
        learning_rate=5e-4,
        learning_rate_base_batch=512,
        warmup_epochs=5,
        warmup_rate=1e-6,
        final_rate=1e-5,
    )
    rates = [learning_rate(deit, step, 3000, 10) for step in (0, 25, 50, 1525, 3000)]
    assert rates == pytest.approx([1e-6, (1e-6 + 1e-3) / 2, 1e-3, (1e-3 + 1e-5) / 2, 1e-5])
    steps = deit.replace(schedule="step", decay_epochs=100, warmup_epochs=0)
    rates = [learning_rate(steps, step, 3000, 10) for step in (0, 999, 1000, 2999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    line = deit.replace(schedule="linear", warmup_epochs=0, final_rate=None)
    assert learning_rate(line, 1500, 3000, 10) == pytest.approx(1e-3 * (0.5 + 0.01 / 2))
    constant = deit.replace(schedule="constant")
    assert learning_rate(constant, 2999, 3000, 10) == pytest.approx(1e-3)


def test_rates_fall_from_layer_to_layer_and_gates_have_their_own() -> None:
    gated = BlockConfig(operator="spvit_gated", num_heads=2, head_size=8, mlp="shrinking")
    model = build(ModelConfig(embed_width=16, blocks=(gated, gated)), seed=0)
    groups = parameter_groups(model, TrainConfig(layer_decay=0.5, gate_rate=10.0))
    rates = {id(part): group["rate"] for group in groups for part in group["params"]}
    named = {name: rates[id(part)] for name, part in model.named_parameters()}
    assert (named["head.weight"], named["norm.weight"]) == (1.0, 0.5)  # as in timm's ViT
    assert named["blocks.1.norm1.weight"] == 2.0 * named["blocks.0.norm1.weight"]
    assert named["pos_embed"] == 0.5 * named["blocks.0.norm1.weight"]
    gate = next(name for name in named if name.startswith("blocks.0") and name.endswith(".t"))
    assert named[gate] == 10.0 * named["blocks.0.norm1.weight"]
    decays = {id(part): group["weight_decay"] for group in groups for part in group["params"]}
    spared = {name for name, part in model.named_parameters() if decays[id(part)] == 0.0}
    assert {"pos_embed", "head.bias", "norm.weight"} <= spared
    assert "head.weight" not in spared


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "adamm"}, "'adamw', 'adam', 'nadamw', 'lamb', 'lion', 'muon', 'sgd'"),
        ({"accumulation": 33, "batch_size": 32}, "accumulation: must be at most"),
        ({"keep": "ema"}, "set train.ema_decay"),
        ({"betas": (0.9, 1.0)}, "1 excluded"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        TrainConfig(**fields)


def test_what_model_device_or_optimiser_lacks_is_refused(
    tiny: RunConfig, digits: TrainingData
) -> None:
    with pytest.raises(ConfigError, match="must be null for Linear: it does not say which layers"):
        make_optimizer(nn.Linear(2, 2), None, TrainConfig(layer_decay=0.5))
    with pytest.raises(
        ConfigError, match="momentum: must be null for adamw; muon, rmsproptf, sgd"
    ):
        make_optimizer(nn.Linear(2, 2), None, TrainConfig(momentum=0.5))
    with pytest.raises(ConfigError, match=r"precision: must be float32, .* on the device cpu"):
        train(changed(tiny, precision="tf32"), digits, device="cpu")
    normed = nn.Sequential(nn.BatchNorm1d(3))
    normed.extra = None  # type: ignore[assignment]
    module = step.LossModule.__new__(step.LossModule)
    nn.Module.__init__(module)
    module.model = normed
    config = TrainConfig(batch_size=4, accumulation=3)
    with pytest.raises(ConfigError, match="two images or more in each part"):
        step.Stepper(
            module, [], torch.optim.SGD(normed.parameters()), config, SingleProcess("cpu")
        )


def test_tf32_is_set_on_cuda_and_put_back() -> None:
    cuda = torch.device("cuda")
    check_precision("tf32", cuda)
    before = torch.get_float32_matmul_precision()
    with arithmetic("auto", cuda):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with arithmetic("tf32", torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before


def test_the_moving_average_is_timms(tiny: RunConfig, digits: TrainingData) -> None:
    run = changed(tiny, epochs=2, ema_decay=0.6, keep="ema")
    trained = train(run, digits)
    seen: list[torch.Tensor] = []

    class Watch(Trainer):
        def _step(self, *args: Any) -> None:
            super()._step(*args)
            seen.append(nn.utils.parameters_to_vector(self.model.parameters()).detach().clone())

    Watch(changed(run, keep="last"), digits, SingleProcess("cpu")).fit()
    average = seen[0]  # timm's average begins after the first step
    for current in seen[1:]:
        average = 0.6 * average + 0.4 * current
    torch.testing.assert_close(weights(trained), average, rtol=1e-5, atol=1e-6)
    measured = evaluate(run, castle(trained.model), digits.validation, digits)["top1"]
    assert trained.metrics.metrics["top1"] == trained.metrics.metrics["top1_ema"] == measured


def test_the_warm_up_of_the_average_makes_it_follow_sooner(
    tiny: RunConfig, digits: TrainingData
) -> None:
    run = changed(tiny, epochs=2, ema_decay=0.999, keep="ema")
    slow, soon, last = (
        weights(train(changed(run, **fields), digits))
        for fields in ({}, {"ema_warmup": True}, {"keep": "last"})
    )
    assert (soon - last).norm() < (slow - last).norm()


def test_the_best_epoch_is_kept_with_its_metrics(tiny: RunConfig, digits: TrainingData) -> None:
    run = changed(tiny, epochs=6, keep="best", learning_rate=0.1, schedule="constant")
    values: list[float] = []
    trained = train(run, digits, on_epoch=lambda m: values.append(m.metrics["top1"]) or True)
    assert values[-1] < max(values)  # else the test shows nothing
    assert trained.metrics.epoch == 6
    assert trained.metrics.metrics["top1"] == max(values)
    measured = evaluate(run, castle(trained.model), digits.validation, digits)["top1"]
    assert measured == max(values)


def test_evaluation_has_the_precision_of_the_training(
    tiny: RunConfig, digits: TrainingData
) -> None:
    kinds = set()
    model = build(tiny.model, seed=0)
    model.head.register_forward_hook(lambda *args: kinds.add(args[-1].dtype))
    evaluate(changed(tiny, precision="bfloat16"), model, digits.validation, digits)
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize(("step_of_nan", "read_at"), [(3, 50), (49, 50), (70, 100)])
def test_what_is_not_finite_is_found_at_the_next_read_with_its_step(
    step_of_nan: int, read_at: int
) -> None:
    readings, seen = Readings(torch.device("cpu"), epoch=2), list[int]()
    with pytest.raises(DivergedError, match=rf"gradient norm .* epoch 2, step {step_of_nan}$"):
        feed(readings, step_of_nan, seen)
    assert seen[-1] == read_at


def feed(readings: Readings, step_of_nan: int, seen: list[int]) -> None:
    for number in range(1, 200):
        seen.append(number)
        norm = torch.tensor(math.nan if number == step_of_nan else 1.0)
        readings.add(torch.tensor(0.5), norm, 4)


def test_losses_are_summed_over_images() -> None:
    readings = Readings(torch.device("cpu"), 1, first_step=10, total=1.0, num_images=4)
    for number in range(60):
        readings.add(torch.tensor(0.5), torch.tensor(1.0), 2 + number % 2)
    assert readings.read() == (1.0 + 0.5 * 150, 4 + 150)
    readings.add(torch.tensor(math.inf), None, 1)
    with pytest.raises(DivergedError, match=r"step 71$"):
        readings.read()
