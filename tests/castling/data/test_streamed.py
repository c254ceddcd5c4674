"""Streamed batches: the same whatever the workers, resumed exactly, equal to those in memory."""

import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.data.distributed_sampler import RepeatAugSampler

from castling.config import AugmentConfig, DataConfig, ModelConfig, RunConfig
from castling.data.batches import Batch, Batches, epoch_order
from castling.data.selection import Selection
from castling.errors import CastlingError, ConfigError, DataError
from castling.model.check import digest
from castling.training import data as data_module
from castling.training.augment import Augmentation
from castling.training.data import training_batches, training_data
from castling.training.loop import train


CPU = torch.device("cpu")
MODEL = ModelConfig(image_size=16, patch_size=4, channels=3, num_classes=2)
COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty digits of each of two classes, of many sizes and colours."""
    root = tmp_path_factory.mktemp("pictures")
    digits = load_digits()
    for label in (0, 1):
        (root / f"d{label}").mkdir()
        for number, image in enumerate(digits.images[digits.target == label][:COUNT]):
            picture = Image.fromarray((image * 15).astype(np.uint8))
            picture = Image.merge("RGB", [picture, picture.rotate(90), picture.rotate(180)])
            picture.resize((20 + number, 40 - number)).save(root / f"d{label}" / f"{number}.png")
    return root


def run_of(folder: Path, augment: AugmentConfig | None = None, **data: object) -> RunConfig:
    run = RunConfig(model=MODEL, data=DataConfig(name=f"folder:{folder}", **data))
    train = run.train.replace(augment=augment or AugmentConfig(), batch_size=7, epochs=1)
    return run.replace(train=train)


def batches_of(run: RunConfig) -> tuple[Batches, Batches]:
    return training_batches(training_data(run), run, CPU)


def epoch(batches: Batches, seed: int = 5, first_step: int = 0, repeated: int = 1) -> list[Batch]:
    order = epoch_order(len(batches), torch.Generator().manual_seed(seed), repeated)
    sizes = [len(rows) for rows in order.split(7)]
    return list(batches.shuffled(order, sizes, seed=seed, first_step=first_step))


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(folder: Path, workers: int) -> None:
    augment = AugmentConfig(preset="deit", random_erase=0.5)
    alone, _ = batches_of(run_of(folder, augment, loader_workers=0))
    state = torch.get_rng_state()
    expected = epoch(alone) + epoch(alone, seed=6)
    assert torch.equal(torch.get_rng_state(), state)  # drop path draws from it
    run = run_of(folder, augment, cache="off", loader_workers=workers)
    helped, validation = batches_of(run)
    assert_equal(epoch(helped) + epoch(helped, seed=6), expected)
    list(validation.in_order())
    assert len(multiprocessing.active_children()) == 2 * workers
    helped.close()
    validation.close()
    assert not multiprocessing.active_children()
    different = zip(expected[:3], expected[-3:], strict=True)
    assert not all(torch.equal(a.images, b.images) for a, b in different)


def test_an_epoch_goes_on_where_it_was_left_and_decodes_nothing_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = AugmentConfig(preset="timm", random_erase=1.0)
    batches, _ = batches_of(run_of(folder, augment, loader_workers=0))
    whole = epoch(batches, repeated=3)
    decoded: Counter[int] = Counter()
    picture = Selection.picture

    def counted(selection: Selection, index: int) -> Image.Image:
        decoded[index] += 1
        return picture(selection, index)

    monkeypatch.setattr(Selection, "picture", counted)
    again, _ = batches_of(run_of(folder, augment, loader_workers=0))
    decoded.clear()
    assert_equal(epoch(again, first_step=2, repeated=3), whole[2:])
    assert sum(decoded.values()) == len(again) - 2 * 7


def test_an_iteration_that_was_given_up_leaves_nothing_in_the_next(folder: Path) -> None:
    batches, _ = batches_of(run_of(folder, cache="off", loader_workers=1))
    expected = epoch(batches)
    order = epoch_order(len(batches), torch.Generator().manual_seed(9))
    next(iter(batches.shuffled(order, [len(batches)], seed=9)))
    assert_equal(epoch(batches), expected)
    batches.close()


def test_streamed_images_are_those_in_memory_bit_for_bit(folder: Path) -> None:
    held, streamed = run_of(folder), run_of(folder, cache="off", loader_workers=0)
    inside, outside = training_data(held), training_data(streamed)
    assert isinstance(outside.train, Selection)
    exact = replace(outside, preprocessing=inside.preprocessing)
    for one, other in zip(
        training_batches(inside, held, CPU), training_batches(exact, streamed, CPU), strict=True
    ):
        assert_equal(epoch(one), epoch(other))
        assert_equal(list(one.in_order()), list(other.in_order()))
    for name in ("mean", "std"):  # summed in float32, counted
        found = getattr(outside.preprocessing, name)
        assert found == pytest.approx(getattr(inside.preprocessing, name), rel=1e-5)
    assert train(held, inside).metrics.metrics["loss"] == pytest.approx(
        train(streamed, exact).metrics.metrics["loss"], rel=1e-6
    )


def test_memory_holds_small_data_and_is_shared_by_trainings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 32 * 16 * 16 * 3  # of 40 pictures 8 are for tests
    run = run_of(folder)
    monkeypatch.setattr(data_module, "available_bytes", lambda: 10 * needed + 9)
    assert not isinstance(training_data(run).train, Selection)
    assert isinstance(training_data(run, trainings=2).train, Selection)
    monkeypatch.setattr(data_module, "LARGEST_IN_MEMORY", needed - 1)
    assert isinstance(training_data(run).train, Selection)
    memory = run_of(folder, cache="memory")
    assert not isinstance(training_data(memory, trainings=2).train, Selection)
    monkeypatch.setattr(data_module, "available_bytes", lambda: needed - 1)
    with pytest.raises(DataError, match=r"data\.cache to auto or off"):
        training_data(memory)


def test_workers_and_switches_of_yaml_are_no_other_training(folder: Path) -> None:
    assert run_of(folder, cache=False).data.cache == "off"
    assert digest(run_of(folder, loader_workers=3)) == digest(run_of(folder))
    with pytest.raises(ConfigError, match="loader_workers"):
        run_of(folder, loader_workers=-1)
    with pytest.raises(ConfigError, match=r"data\.cache: must be auto, disk or off"):
        training_data(run_of(folder, AugmentConfig(preset="deit"), cache="memory"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_sentence_from_a_worker_too(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for path in sorted((folder / "d0").iterdir())[:4]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    run = run_of(tmp_path, cache="off", loader_workers=workers)
    batches, _ = training_batches(training_data(run), run, CPU)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(
        CastlingError,
        match=r"is no readable image .*remove or replace it, or set data.on_error: skip$",
    ):
        epoch(batches)
    batches.close()


def test_repeated_augmentation_is_that_of_timm() -> None:
    sampler = RepeatAugSampler(range(300), num_replicas=1, rank=0, num_repeats=3)
    order = epoch_order(300, torch.Generator().manual_seed(0), 3)
    assert (order % 300).tolist()[:256] == list(sampler)
    assert len(set(order.tolist())) == 300  # each copy has draws of its own
    plain = epoch_order(300, torch.Generator().manual_seed(0))
    assert torch.equal(plain, torch.randperm(300, generator=torch.Generator().manual_seed(0)))


def test_mixed_labels_are_soft_and_smoothed_also_for_an_odd_batch() -> None:
    train_config = RunConfig().train.replace(
        augment=AugmentConfig(mixup=0.8, cutmix=1.0, mix_switch=0.0), label_smoothing=0.1
    )
    mix = Augmentation(train_config, num_classes=3)
    batch = Batch(torch.arange(5.0).reshape(5, 1, 1, 1), torch.tensor([0, 1, 2, 0, 1]))
    generator = torch.Generator().manual_seed(1)
    kept = batch.images.clone()
    mixed = mix(Batch(batch.images.clone(), batch.labels), generator, 0)
    assert mixed.labels.shape == (5, 3)
    assert mixed.labels.sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    weight = float((mixed.images[0] - kept[3]) / (kept[0] - kept[3]))
    assert 0.0 < weight < 1.0
    smooth = 0.1 / 3
    assert float(mixed.labels[1, 1]) == pytest.approx(weight * 0.9 + smooth)  # 1 and 2 mix
    assert mixed.images[4] == kept[4]
    assert mixed.labels[4].tolist() == pytest.approx([smooth, 0.9 + smooth, smooth])
    again = mix(Batch(kept.clone(), batch.labels), generator, 0)
    assert torch.equal(again.images, mixed.images)
    assert not torch.equal(mix(Batch(kept, batch.labels), generator, 1).images, mixed.images)


def test_a_preset_that_pillow_cannot_run_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageOps

    def refuse(*_: object) -> None:
        raise ValueError("no such bits")

    monkeypatch.setattr(ImageOps, "posterize", refuse)
    monkeypatch.setattr(ImageOps, "autocontrast", refuse)
    monkeypatch.setattr(ImageOps, "equalize", refuse)
    batches, _ = batches_of(run_of(folder, AugmentConfig(preset="mvitv2"), loader_workers=0))
    with pytest.raises(ConfigError, match=f"mvitv2 with Pillow {PIL.__version__}.*preset"):
        epoch(batches)
    with pytest.raises(ConfigError, match="must be a policy of timm's"):
        batches_of(run_of(folder, AugmentConfig(preset="timm", auto_augment="nonsense")))
