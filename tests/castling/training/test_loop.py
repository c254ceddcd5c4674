import itertools
import json
import math
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from castling.config import DistillConfig, MaskSchedule, Preprocessing, RunConfig
from castling.data.arrays import Split
from castling.data.batches import Batch
from castling.data.memory import InMemoryBatches
from castling.errors import CheckpointError, ConfigError, DivergedError
from castling.model.build import build
from castling.model.castle import castle
from castling.model.check import digest, run_config
from castling.model.storage import load, read_tensors, save
from castling.operators import OPERATORS
from castling.operators.modules.auxiliary import AuxiliaryBranch, branches
from castling.tasks import TASKS
from castling.training.checkpoint import Snapshot, previous_checkpoint, remove_checkpoint
from castling.training.data import TrainingData, load_data, load_test
from castling.training.evaluation import evaluate, evaluate_batches
from castling.training.loop import Trained, train as train_anywhere
from castling.training.metrics import EpochMetrics
from castling.training.optimizer import batch_sizes
from castling.training.start import check_start


GOLDEN = Path(__file__).parents[2] / "golden" / "digits_training.json"
CPU = torch.device("cpu")

train = partial(train_anywhere, device="cpu")
"""Bit for bit is promised on a CPU only."""


def with_mask(run: RunConfig, mask: MaskSchedule | None) -> RunConfig:
    blocks = tuple(block.replace(mask=mask) for block in run.model.blocks)
    return run.replace(model=run.model.replace(blocks=blocks))


def with_training(run: RunConfig, **changes: object) -> RunConfig:
    return run.replace(train=run.train.replace(**changes))


def history(
    run: RunConfig, data: TrainingData, **options: object
) -> tuple[Trained, list[EpochMetrics]]:
    seen: list[EpochMetrics] = []

    def note(metrics: EpochMetrics) -> bool:
        seen.append(metrics)
        return True

    return train(run, data, on_epoch=note, **options), seen


def timeless(metrics: EpochMetrics) -> EpochMetrics:
    timing = {"images_per_s": 0.0, "train_seconds": 0.0}
    return metrics.replace(metrics={**metrics.metrics, **timing})


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_losses_of_twenty_steps_are_golden(tiny: RunConfig, digits: TrainingData) -> None:
    run = with_training(tiny, epochs=20, batch_size=len(digits.train), learning_rate=1e-2)
    losses = [metrics.metrics["loss"] for metrics in history(run, digits)[1]]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())["losses"], rel=1e-3)


@pytest.mark.parametrize("name", ["tiny", "everything_on"])
def test_one_seed_gives_the_same_weights_bit_for_bit(
    name: str, digits: TrainingData, request: pytest.FixtureRequest
) -> None:
    run = with_training(request.getfixturevalue(name), epochs=2)
    torch.manual_seed(1)
    first, first_history = history(run, digits)
    torch.manual_seed(2)  # the global generator has no say
    again, again_history = history(run, digits)
    assert same_weights(first.model, again.model)
    assert list(map(timeless, first_history)) == list(map(timeless, again_history))
    other, other_history = history(with_training(run, seed=1), digits)
    assert not same_weights(first.model, other.model)
    assert other_history[0].metrics["loss"] != first_history[0].metrics["loss"]


def test_the_global_generator_is_left_as_it_was(
    everything_on: RunConfig, digits: TrainingData
) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    train(with_training(everything_on, epochs=1), digits)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["tiny", "everything_on"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_stopping_after_any_epoch_and_going_on_changes_nothing(
    name: str, stop: int, digits: TrainingData, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(name)
    whole, whole_history = history(run, digits)
    path = tmp_path / "checkpoint.safetensors"
    part = train(run, digits, on_epoch=lambda m: m.epoch < stop, checkpoint=path)
    assert part.metrics.epoch == stop
    assert timeless(part.metrics) == timeless(whole_history[stop - 1])
    resumed, resumed_history = history(run, digits, checkpoint=path)
    assert list(map(timeless, resumed_history)) == list(map(timeless, whole_history[stop:]))
    assert timeless(resumed.metrics) == timeless(whole.metrics)
    assert resumed.metrics.metrics["train_seconds"] >= part.metrics.metrics["train_seconds"]
    assert same_weights(resumed.model, whole.model)


@pytest.mark.parametrize("operator", list(OPERATORS))
def test_every_operator_goes_on_bit_for_bit(
    operator: str, tiny: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    """Whatever an operator holds besides parameters is in the checkpoint, and in a saved model."""
    blocks = tuple(
        block.replace(operator=operator, mlp="shrinking", options={})
        for block in tiny.model.blocks
    )
    run = with_training(tiny.replace(model=tiny.model.replace(blocks=blocks)), epochs=2)
    whole, (first, _) = history(run, digits)
    path = tmp_path / "checkpoint.safetensors"
    part = train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    assert timeless(part.metrics) == timeless(first)
    resumed, _ = history(run, digits, checkpoint=path)
    assert same_weights(resumed.model, whole.model)
    save(whole.model, tmp_path)
    measured = evaluate(run, load(tmp_path), digits.validation, digits)
    assert measured["top1"] == whole.metrics.metrics["top1"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_text(path: Path) -> None:
    path.write_text("not a checkpoint")


class Killed(BaseException):
    """Ends a training as a signal would: between two epochs, without a last checkpoint."""


def test_a_killed_training_goes_on_from_its_last_checkpoint(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def kill(metrics: EpochMetrics) -> bool:
        if metrics.epoch == 3:
            raise Killed
        return True

    with pytest.raises(Killed):
        train(tiny, digits, on_epoch=kill, checkpoint=path, checkpoint_share=math.inf)
    resumed, rest = history(tiny, digits, checkpoint=path)
    assert [metrics.epoch for metrics in rest] == [3, 4]
    assert same_weights(resumed.model, train(tiny, digits).model)


@pytest.mark.parametrize("harm", [truncate, empty, replace_by_text, Path.unlink])
def test_a_killed_training_goes_on_from_the_checkpoint_before_a_broken_one(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(
        tiny,
        digits,
        on_epoch=lambda seen: seen.epoch < 3,
        checkpoint=path,
        checkpoint_share=math.inf,
    )
    harm(path)
    resumed, rest = history(tiny, digits, checkpoint=path)
    assert [metrics.epoch for metrics in rest] == [3, 4]
    assert same_weights(resumed.model, train(tiny, digits).model)
    remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("newest", "first"), [(None, 4), (3, 4), (2, 3), (1, 1), (0, 1)])
def test_a_checkpoint_that_is_newer_than_the_curve_is_ignored(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path, newest: int | None, first: int
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    begun = partial(train, tiny, digits, on_epoch=lambda seen: seen.epoch < 3)
    begun(checkpoint=path, checkpoint_share=math.inf)  # after 3 epochs, and after 2 before it
    resumed, rest = history(tiny, digits, checkpoint=path, newest_epoch=newest)
    assert [metrics.epoch for metrics in rest] == [*range(first, 5)]
    assert same_weights(resumed.model, train(tiny, digits).model)


@pytest.mark.parametrize(("share", "expected"), [(math.inf, [1, 2, 3, 4]), (1e-9, [1, 4])])
def test_checkpoints_are_written_in_their_part_of_the_time(
    tiny: RunConfig,
    digits: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    expected: list[int],
) -> None:
    """The first, the last, and those between that keep to the share."""
    path, written = tmp_path / "checkpoint.safetensors", []
    write = Snapshot.write

    def noted(snapshot: Snapshot, place: Path) -> None:
        write(snapshot, place)
        written.append(json.loads(read_tensors(place)[1]["metrics"])["epoch"])

    monkeypatch.setattr(Snapshot, "write", noted)
    train(tiny, digits, checkpoint=path, checkpoint_share=share)
    assert written == expected
    kept = [
        json.loads(read_tensors(file)[1]["metrics"]) for file in (previous_checkpoint(path), path)
    ]
    assert [metrics["epoch"] for metrics in kept] == expected[-2:]


@pytest.mark.parametrize("harm", [truncate, empty, replace_by_text])
def test_a_broken_checkpoint_is_ignored_and_training_starts_anew(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path, harm: object
) -> None:
    run = with_training(tiny, epochs=2)
    path = tmp_path / "checkpoint.safetensors"
    train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    assert callable(harm)
    harm(path)
    fresh, seen = history(run, digits, checkpoint=path)
    assert [metrics.epoch for metrics in seen] == [1, 2]
    assert same_weights(fresh.model, train(run, digits).model)
    again, nothing_left = history(run, digits, checkpoint=path)  # it was overwritten by a good one
    assert nothing_left == []
    assert same_weights(again.model, fresh.model)


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"learning_rate": 1e-3}, {"epochs": 3}, {"precision": "bfloat16"}]
)
def test_the_checkpoint_of_another_training_is_ignored(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path, changes: dict[str, object]
) -> None:
    run = with_training(tiny, epochs=2)
    path = tmp_path / "checkpoint.safetensors"
    train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    other = with_training(run, **changes)
    trained, seen = history(other, digits, checkpoint=path)
    assert seen[0].epoch == 1
    assert same_weights(trained.model, train(other, digits).model)
    assert read_tensors(path)[1]["config_id"] == digest(other)  # and overwritten


def test_fields_that_an_operator_ignores_do_not_make_another_training(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    run = with_training(tiny, epochs=2)
    path = tmp_path / "checkpoint.safetensors"
    train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    blocks = list(run.model.blocks)
    assert blocks[1].operator == "softmax"
    blocks[1] = blocks[1].replace(conv_kernel=1, mask=None)
    same = run.replace(model=run.model.replace(blocks=tuple(blocks)))
    assert [metrics.epoch for metrics in history(same, digits, checkpoint=path)[1]] == [2]


@pytest.mark.parametrize(("rate", "clip"), [(1e30, 1.0), (1e18, 1e30)])
def test_a_training_that_diverges_says_when(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path, rate: float, clip: float
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run = with_training(tiny, learning_rate=rate, clip_norm=clip, warmup=0.0)
    with pytest.raises(DivergedError) as caught:
        train(run, digits, checkpoint=path)
    error = caught.value
    assert error.what in {"loss", "gradient norm"}
    assert (error.epoch, error.step) > (1, 1)  # the first step starts from good weights
    assert error.epoch <= 4
    assert 1 <= error.step <= 3
    assert not math.isfinite(error.value)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert f"at epoch {error.epoch}, step {error.step}" in str(error)


def test_masks_empty_then_castling_changes_nothing(tiny: RunConfig, digits: TrainingData) -> None:
    run = with_training(with_mask(tiny, MaskSchedule(end=0.75)), epochs=8)
    trained, seen = history(run, digits)
    densities = [metrics.mask_density for metrics in seen]
    assert {len(density) for density in densities} == {2}  # the softmax block has no branch
    assert all(low < 0.9 for low in densities[0])
    assert all(low > 0.0 for low in densities[0])
    for earlier, later in itertools.pairwise(densities):
        assert all(b <= a for a, b in zip(earlier, later, strict=True))
    assert densities[5:] == [(0.0, 0.0)] * 3  # progress 6/8 is the end of the schedule
    for metrics in seen[5:]:
        assert metrics.metrics["top1"] == metrics.metrics["top1_branch"]
    measured = evaluate(run, castle(trained.model), digits.validation, digits)
    assert measured["top1"] == trained.metrics.metrics["top1"]


def test_the_accuracies_are_those_of_the_two_models(tiny: RunConfig, digits: TrainingData) -> None:
    # A mask that stays alive: castled and training model differ, and each is measured as itself.
    alive = MaskSchedule(shape="constant", start_multiple=0.5)
    run = with_training(with_mask(tiny, alive), epochs=6, learning_rate=1e-2)
    trained, seen = history(run, digits)
    for name, model in (("top1_branch", trained.model), ("top1", castle(trained.model))):
        measured = evaluate(run, model, digits.validation, digits)
        assert measured["top1"] == trained.metrics.metrics[name]
    assert any(metrics.metrics["top1"] != metrics.metrics["top1_branch"] for metrics in seen)
    assert min(trained.metrics.mask_density) > 0.0


def test_an_empty_branch_is_skipped_in_training_and_validation(
    tiny: RunConfig, digits: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds = []
    forward = AuxiliaryBranch.forward

    def counted(
        branch: AuxiliaryBranch, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        thresholds.append(branch.threshold)
        return forward(branch, q, k, v)

    monkeypatch.setattr(AuxiliaryBranch, "forward", counted)
    monkeypatch.setattr("castling.kernels.linear_angular.kernel", lambda *_: None)  # has it inside
    run = with_mask(tiny, MaskSchedule(end=0.5))
    train(run, digits)
    # 2 branches: 3 steps in each of 2 epochs, and one validation at progress 1/4.
    assert len(thresholds) == 2 * (3 * 2 + 1)
    assert max(thresholds) < 1.0


def final_loss(run: RunConfig, data: TrainingData) -> Trained:
    return train(with_training(run, epochs=2), data)


def test_the_weight_of_the_surviving_mass_changes_training(
    tiny: RunConfig, digits: TrainingData
) -> None:
    masks = [
        MaskSchedule(shape="constant", start_multiple=0.5, l1_weight=weight)
        for weight in (0.0, 0.5, 0.5)
    ]
    free, weighed, again = (final_loss(with_mask(tiny, mask), digits) for mask in masks)
    assert not same_weights(free.model, weighed.model)
    assert same_weights(weighed.model, again.model)
    # The penalty is the mean mass times its weight, summed over the two layers: at most 2 x 0.5.
    assert 0.3 < weighed.metrics.metrics["loss"] - free.metrics.metrics["loss"] < 1.1


def test_a_strong_weight_lets_less_survive(tiny: RunConfig, digits: TrainingData) -> None:
    # Cutting entries needs attention flatter than the threshold, here twice uniform attention.
    densities = []
    for weight in (0.0, 30.0):
        mask = MaskSchedule(shape="constant", start_multiple=2.0, l1_weight=weight)
        run = with_training(with_mask(tiny, mask), epochs=6, learning_rate=1e-2)
        densities.append(sum(train(run, digits).metrics.mask_density))
    assert densities[1] < densities[0]


def test_training_learns(tiny: RunConfig) -> None:
    run = with_training(tiny, epochs=5, learning_rate=1e-2)
    data = load_data(run.data.replace(num_train=600), run.model)
    trained, seen = history(run, data)
    assert seen[-1].metrics["loss"] < seen[0].metrics["loss"] - 0.5
    assert trained.metrics.metrics["top1"] > 0.5  # chance is 0.1
    test = load_test(run.data, run.model)
    assert evaluate(run, castle(trained.model), test, data)["top1"] > 0.5


def test_the_metrics_of_an_epoch_are_complete(tiny: RunConfig, digits: TrainingData) -> None:
    trained, seen = history(tiny, digits)
    assert [metrics.epoch for metrics in seen] == [1, 2, 3, 4]
    assert trained.metrics == seen[-1]
    assert all(math.isfinite(value) for value in flat(seen))
    seconds = [metrics.metrics["train_seconds"] for metrics in seen]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0.0
    rates = [metrics.metrics["learning_rate"] for metrics in seen]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * tiny.train.learning_rate


def flat(seen: Iterable[EpochMetrics]) -> list[float]:
    values = []
    for metrics in seen:
        values.extend([*metrics.metrics.values(), *metrics.mask_density])
    return values


def test_a_model_without_branches_has_no_densities(tiny: RunConfig, digits: TrainingData) -> None:
    trained = train(with_training(with_mask(tiny, None), epochs=1), digits)
    assert trained.metrics.mask_density == ()
    assert trained.metrics.metrics["top1"] == trained.metrics.metrics["top1_branch"]
    assert branches(trained.model) == []


def test_images_are_normalised_with_the_statistics_of_the_training_images(
    digits: TrainingData,
) -> None:
    pixels = InMemoryBatches.of(digits.train, digits.statistics, CPU).batch(slice(None)).images
    assert pixels.shape == (90, 1, 8, 8)
    assert pixels.dtype == torch.float32
    assert pixels.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert pixels.std(correction=0).item() == pytest.approx(1.0, rel=1e-5)


def test_accuracy_counts_over_batches(tiny: RunConfig, digits: TrainingData) -> None:
    model = train(with_training(tiny, epochs=1), digits).model.train()
    batches = InMemoryBatches.of(digits.validation, digits.statistics, CPU)
    whole = batches.batch(slice(None))
    with torch.inference_mode():
        expected = (model.eval()(whole.images).argmax(1) == whole.labels).float()
    in_parts = list(batches.in_order(25))
    assert [len(batch.labels) for batch in in_parts] == [25, 25, 10]
    model.train()
    measured = evaluate_batches(TASKS["classification"].build(tiny), model, in_parts)
    assert measured["top1"] == pytest.approx(expected.mean().item())
    assert not model.training


@pytest.mark.parametrize("batch_size", [1, 89, 90, 91, 1000])
def test_any_batch_size_trains_every_image_once_an_epoch(
    tiny: RunConfig, digits: TrainingData, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    batch = InMemoryBatches.batch

    def noted(batches: InMemoryBatches, chosen: torch.Tensor | slice) -> Batch:
        if isinstance(chosen, torch.Tensor):
            rows.extend(chosen.tolist())
        return batch(batches, chosen)

    monkeypatch.setattr(InMemoryBatches, "batch", noted)
    train(with_training(tiny, epochs=1, batch_size=batch_size), digits)
    assert sorted(rows) == list(range(90))
    assert rows != sorted(rows)


def test_training_takes_images_that_are_all_alike(tiny: RunConfig, digits: TrainingData) -> None:
    # Attention among equal tokens is exactly uniform, and the standard deviation is zero.
    blank = Split(images=np.zeros((20, 1, 8, 8), np.uint8), labels=np.arange(20) % 10)
    flat = digits.preprocessing.replace(mean=(0.0,), std=(1e-6,))
    data = replace(digits, train=blank, validation=blank, preprocessing=flat)
    trained = train(with_training(tiny, epochs=1), data)
    assert math.isfinite(trained.metrics.metrics["loss"])


@pytest.fixture(scope="module")
def original(
    tiny: RunConfig, digits: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the tiny model, all softmax, trained for an epoch."""
    folder = tmp_path_factory.mktemp("original")
    blocks = tuple(block.replace(operator="softmax") for block in tiny.model.blocks)
    run = with_training(tiny.replace(model=tiny.model.replace(blocks=blocks)), epochs=1)
    save(train(run, digits).model, folder)
    return folder


EVERYTHING = DistillConfig(layer_weight=1.0, token_weight=0.5)


@pytest.mark.parametrize("name", ["tiny", "everything_on"])
def test_a_conversion_goes_on_bit_for_bit_with_its_local_head(
    name: str, digits: TrainingData, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: RunConfig = request.getfixturevalue(name)
    blocks = tuple(block.replace(operator="softmax") for block in run.model.blocks)
    save(build(run.model.replace(blocks=blocks), seed=5), tmp_path)
    run = with_training(run, epochs=2, initial=str(tmp_path), distill=EVERYTHING)
    whole, whole_history = history(run, digits)
    path = tmp_path / "checkpoint.safetensors"
    train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    stored = read_tensors(path)[0]
    assert {name for name in stored if "local" in name} == {
        "beside.local.weight",
        "beside.local.bias",
    }
    resumed, rest = history(run, digits, checkpoint=path)
    assert list(map(timeless, rest)) == list(map(timeless, whole_history[1:]))
    assert same_weights(resumed.model, whole.model)
    after = read_tensors(path)[0]  # the local head is trained
    assert not torch.equal(stored["beside.local.weight"], after["beside.local.weight"])
    assert not any("local" in name or "teacher" in name for name in whole.model.state_dict())


def test_a_training_begins_with_the_weights_that_it_names(
    tiny: RunConfig, digits: TrainingData, original: Path
) -> None:
    run = with_training(tiny, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    named = train(with_training(run, initial=str(original)), digits)
    given = train(run, digits, initial=load(original))
    assert same_weights(named.model, given.model)
    begun = named.model.state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.allclose(begun, load(original).state_dict()["blocks.0.attn.qkv.weight"])


def test_the_original_may_be_given_as_a_model(
    tiny: RunConfig, digits: TrainingData, original: Path
) -> None:
    run = with_training(tiny, epochs=1, distill=DistillConfig())
    given = train(run, digits, initial=load(original))
    named = train(with_training(run, initial=str(original)), digits)
    assert same_weights(named.model, given.model)
    with pytest.raises(ConfigError, match="begins with no weights"):
        train(run, digits)


@pytest.mark.parametrize("role", ["initial", "teacher"])
def test_a_training_of_other_initial_weights_or_teacher_is_another(
    role: str, tiny: RunConfig, digits: TrainingData, original: Path, tmp_path: Path
) -> None:
    folder, path = tmp_path / "model", tmp_path / "checkpoint.safetensors"
    model = load(original)
    save(model, folder)
    named = {"initial": str(folder)} if role == "initial" else {
        "distill": DistillConfig(teacher=str(folder))
    }  # fmt: skip
    run = with_training(tiny, epochs=2, **named)
    train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    assert [metrics.epoch for metrics in history(run, digits, checkpoint=path)[1]] == [2]
    train(run, digits, on_epoch=lambda _: False, checkpoint=path)
    with torch.no_grad():
        model.head.bias += 1.0
    save(model, folder)  # the config still says the same
    assert [metrics.epoch for metrics in history(run, digits, checkpoint=path)[1]] == [1, 2]


def test_a_teacher_changes_the_training_and_its_absence_does_not(
    tiny: RunConfig, digits: TrainingData, original: Path
) -> None:
    run = with_training(tiny, epochs=1)
    alone = train(run, digits)
    taught = train(with_training(run, distill=DistillConfig(teacher=str(original))), digits)
    assert not same_weights(alone.model, taught.model)
    almost = DistillConfig(teacher=str(original), weight=1e-12)
    silent = train(with_training(run, distill=almost), digits)
    assert silent.metrics.metrics["loss"] == pytest.approx(alone.metrics.metrics["loss"], rel=1e-5)


def test_check_start_raises_what_the_training_would(
    tiny: RunConfig, digits: TrainingData, original: Path
) -> None:
    other = tiny.replace(model=tiny.model.replace(embed_width=24))
    for run in (
        with_training(other, initial=str(original)),
        with_training(
            tiny.replace(model=tiny.model.replace(blocks=tiny.model.blocks[:1])),
            distill=DistillConfig(teacher=str(original), layer_weight=1.0),
        ),
    ):
        with pytest.raises((ConfigError, CheckpointError)) as before:
            check_start(run)
        with pytest.raises(type(before.value), match=re.escape(str(before.value))):
            train(run, digits)
    check_start(tiny)


NORMED = nn.Sequential(nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    ("model", "num_images", "batch_size", "sizes"),
    [
        (nn.Linear(3, 3), 9, 4, [4, 4, 1]),
        (NORMED, 9, 4, [4, 5]),
        (NORMED, 10, 4, [4, 4, 2]),
        (NORMED, 8, 4, [4, 4]),
        (nn.Linear(3, 3), 1, 4, [1]),
        (nn.Linear(3, 3), 3, 1, [1, 1, 1]),
    ],
)
def test_a_single_image_that_is_left_joins_the_step_before_batch_norms(
    model: nn.Module, num_images: int, batch_size: int, sizes: list[int]
) -> None:
    assert batch_sizes(model, num_images, batch_size) == sizes


@pytest.mark.parametrize(("num_images", "batch_size"), [(5, 1), (1, 8)])
def test_batch_norms_need_two_images(num_images: int, batch_size: int) -> None:
    with pytest.raises(ConfigError, match="batch_size: must be at least 2"):
        batch_sizes(NORMED, num_images, batch_size)


def test_levit_trains_on_images_of_which_one_is_left() -> None:
    model = {
        "backbone": "levit_128",
        "image_size": 32,
        "channels": 1,
        "options": {
            "embed_dim": [8, 16, 24],
            "key_dim": 4,
            "num_heads": [1, 2, 3],
            "depth": [1, 1, 1],
        },
        "num_classes": 2,
        "blocks": "linear_angular",
    }
    run = run_config({"model": model, "train": {"epochs": 2, "batch_size": 4}})
    images = np.random.default_rng(0).integers(0, 255, (9, 1, 32, 32), np.uint8)
    split = Split(images=images, labels=np.arange(9) % 2)
    shown = Preprocessing(image_size=(32, 32), channels=1, mean=(0.5,), std=(0.3,))
    data = TrainingData(
        name="noise", train=split, validation=split, classes=("a", "b"), preprocessing=shown
    )
    assert train(run, data).metrics.epoch == 2
