import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from idx_files import idx
from PIL import Image
from sklearn.datasets import load_digits

from castling.config import DataConfig, ModelConfig
from castling.data import fashion_mnist
from castling.data.arrays import Split
from castling.errors import ConfigError, DataError
from castling.training import data as data_module
from castling.training.data import TrainingData, load_data, load_test


DIGITS = ModelConfig()


def rows(split: Split) -> set[bytes]:
    pairs = zip(split.images, split.labels, strict=True)
    return {image.tobytes() + bytes([label]) for image, label in pairs}


def keys(split: Split) -> list[bytes]:
    return [image.tobytes() for image in split.images]


def test_the_splits_of_digits_are_sized_disjoint_and_complete() -> None:
    data, test = load_data(DataConfig(), DIGITS), load_test(DataConfig(), DIGITS)
    assert (len(data.train), len(data.validation), len(test)) == (1077, 360, 360)
    # Each of the 1,797 images is unique, so that equal pixels would be a leak.
    together = [*keys(data.train), *keys(data.validation), *keys(test)]
    assert len(set(together)) == 1797
    whole = (load_digits().images * 15).astype(np.uint8)
    assert set(together) == {image.tobytes() for image in whole}


def test_digits_keep_their_pixels_and_classes() -> None:
    data = load_data(DataConfig(), DIGITS)
    bunch = load_digits()
    labels = {
        image.tobytes(): label
        for image, label in zip((bunch.images * 15).astype(np.uint8), bunch.target, strict=True)
    }
    assert [labels[key] for key in keys(data.train)] == data.train.labels.tolist()
    assert data.train.images.shape == (1077, 1, 8, 8)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert data.classes == tuple("0123456789")


def test_the_splits_of_digits_are_stratified() -> None:
    data, test = load_data(DataConfig(), DIGITS), load_test(DataConfig(), DIGITS)
    shares = np.bincount(load_digits().target) / 1797
    for split in (data.train, data.validation, test):
        expected = shares * len(split)
        assert (np.abs(np.bincount(split.labels, minlength=10) - expected) < 2).all()


def test_splits_depend_on_the_seed_and_nothing_else() -> None:
    first, again = (load_data(DataConfig(), DIGITS) for _ in range(2))
    other = load_data(DataConfig(split_seed=1), DIGITS)
    assert keys(first.train) == keys(again.train)
    assert keys(first.validation) == keys(again.validation)
    assert keys(first.validation) != keys(other.validation)
    test = [load_test(DataConfig(split_seed=seed), DIGITS) for seed in (0, 0, 1)]
    assert keys(test[0]) == keys(test[1])
    assert keys(test[0]) != keys(test[2])


def arrays(thing: object) -> Iterator[np.ndarray]:
    """Return every array that can be reached from an object."""
    if isinstance(thing, np.ndarray):
        yield thing
        if thing.base is not None:
            yield from arrays(thing.base)
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from arrays(getattr(thing, field.name))
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from arrays(part)


@pytest.mark.parametrize("config", [DataConfig(), DataConfig(num_train=100, num_validation=50)])
def test_what_a_training_sees_holds_no_test_image(config: DataConfig) -> None:
    test = set(keys(load_test(config, DIGITS)))
    data = load_data(config, DIGITS)
    seen = {
        image.tobytes()
        for array in arrays(data)
        if array.ndim > 1
        for image in array.reshape(-1, 64)
    }
    assert seen >= set(keys(data.train)) | set(keys(data.validation))
    assert not seen & test
    assert {field.name for field in fields(TrainingData)} == {
        "name", "train", "validation", "classes", "preprocessing",
    }  # fmt: skip


def test_the_statistics_are_those_of_the_training_images() -> None:
    data = load_data(DataConfig(num_train=200), DIGITS)
    scaled = data.train.images / 255.0
    assert data.statistics.mean == pytest.approx((scaled.mean(),))
    assert data.statistics.std == pytest.approx((scaled.std(),))


def test_subsets_are_balanced_and_nested_in_the_split() -> None:
    whole = load_data(DataConfig(), DIGITS)
    part = load_data(DataConfig(num_train=100, num_validation=60), DIGITS)
    assert (len(part.train), len(part.validation)) == (100, 60)
    assert rows(part.train) < rows(whole.train)
    assert rows(part.validation) < rows(whole.validation)
    assert set(np.bincount(part.train.labels)) <= {9, 10, 11}
    everything = load_data(DataConfig(num_train=1077, num_validation=360), DIGITS)
    assert keys(everything.train) == keys(whole.train)


@pytest.mark.parametrize("size", [10, 11, 1067, 1068, 1075, 1076])
def test_subsets_of_every_possible_size_can_be_drawn(size: int) -> None:
    data = load_data(DataConfig(num_train=size), DIGITS)
    assert len(data.train) == len(rows(data.train)) == size
    assert set(data.train.labels) == set(range(10))


@pytest.mark.parametrize("field", ["num_train", "num_validation"])
@pytest.mark.parametrize("size", [1, 9, 5000])
def test_subsets_of_impossible_sizes_are_refused(field: str, size: int) -> None:
    with pytest.raises(ConfigError, match=f"data.{field}: must be at (most|least)"):
        load_data(DataConfig(**{field: size}), DIGITS)


@pytest.mark.parametrize(
    ("model", "field", "needed"),
    [
        (DIGITS.replace(image_size=(8, 10)), "model.image_size", r"\(8, 8\)"),
        (DIGITS.replace(channels=3), "model.channels", "1"),
        (DIGITS.replace(num_classes=100), "model.num_classes", "10"),
    ],
)
@pytest.mark.parametrize("load", [load_data, load_test])
def test_a_model_for_other_data_is_refused(
    load: Callable[[DataConfig, ModelConfig], object],
    model: ModelConfig,
    field: str,
    needed: str,
) -> None:
    with pytest.raises(ConfigError, match=f"{field}: must be {needed} for the data digits, got"):
        load(DataConfig(), model)


@pytest.mark.parametrize("name", ["cifar", "", "folder", "folder:", "digits:x", "Digits"])
def test_unknown_data_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.name: must be digits, .* or wds:PATH"):
        load_data(DataConfig(name=name), DIGITS)


FASHION = ModelConfig(image_size=(6, 4))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Write a dataset of 60 + 20 images of 6 x 4 pixels, two files gzipped and two plain."""
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 6, 4), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        packed = gzip.compress(idx(images), mtime=0)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(packed)
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def fashion_config(folder: Path) -> DataConfig:
    return DataConfig(name="fashion-mnist", path=folder)


def test_idx_files_are_read_gzipped_and_plain(fashion: Path) -> None:
    config = fashion_config(fashion)
    data, test = load_data(config, FASHION), load_test(config, FASHION)
    assert (len(data.train), len(data.validation), len(test)) == (45, 15, 20)
    generator = np.random.default_rng(0)
    development = generator.integers(0, 256, (60, 6, 4), dtype=np.uint8)
    held_back = generator.integers(0, 256, (20, 6, 4), dtype=np.uint8)
    assert np.array_equal(test.images[:, 0], held_back)
    assert np.array_equal(test.labels, np.arange(20) % 10)
    label = {image.tobytes(): row % 10 for row, image in enumerate(development)}
    for split in (data.train, data.validation):
        assert [label[key] for key in keys(split)] == split.labels.tolist()
    assert {*keys(data.train), *keys(data.validation)} == label.keys()
    assert data.classes[0] == "t-shirt"
    assert data.classes[-1] == "ankle-boot"


def load_everything(config: DataConfig, model: ModelConfig) -> None:
    """Read every image: what is wrong with a file is found by whoever reads it."""
    load_data(config, model)
    load_test(config, model)


def refused(config: DataConfig, model: ModelConfig, *facts: str) -> None:
    with pytest.raises(DataError) as caught:
        load_everything(config, model)
    text = str(caught.value)
    assert text.startswith(f"data {config.name}: ")
    assert "\n" not in text
    for fact in facts:
        assert fact in text


LABELS, IMAGES = "train-labels-idx1-ubyte", "train-images-idx3-ubyte.gz"


@pytest.mark.parametrize("length", [0, 3, 7, 8, 40, 67])
def test_a_truncated_idx_file_is_named(fashion: Path, length: int) -> None:
    path = fashion / LABELS
    path.write_bytes(path.read_bytes()[:length])
    refused(fashion_config(fashion), FASHION, str(path), "unreadable")


@pytest.mark.parametrize("length", [0, 1, 5, 12, 100, -9, -1])
def test_a_truncated_gzip_file_is_named(fashion: Path, length: int) -> None:
    path = fashion / IMAGES
    path.write_bytes(path.read_bytes()[:length])
    refused(fashion_config(fashion), FASHION, str(path), "unreadable")


@pytest.mark.parametrize("place", [0, 2, 10, 12, 60, -3])
def test_a_corrupt_gzip_file_is_named(fashion: Path, place: int) -> None:
    path = fashion / IMAGES
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    refused(fashion_config(fashion), FASHION, str(path), "unreadable")


def test_a_wrong_magic_number_is_named(fashion: Path) -> None:
    path = fashion / LABELS
    path.write_bytes(b"\0\0\x09\x01" + path.read_bytes()[4:])
    refused(fashion_config(fashion), FASHION, str(path), "magic number 0x901")


@pytest.mark.parametrize("name", [LABELS, IMAGES])
def test_a_missing_file_is_named_with_the_package_that_has_it(fashion: Path, name: str) -> None:
    (fashion / name).unlink()
    stem = name.removesuffix(".gz")
    refused(fashion_config(fashion), FASHION, stem, str(fashion), "dataset-fashion-mnist")


def test_the_package_is_named_where_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST_FOLDER", tmp_path / "absent")
    refused(DataConfig(name="fashion-mnist"), FASHION, "dataset-fashion-mnist", "data.path")


def test_images_without_labels_are_refused(fashion: Path) -> None:
    (fashion / LABELS).write_bytes(idx(np.zeros(59, np.uint8)))
    refused(fashion_config(fashion), FASHION, "60 images but 59 labels")


def test_labels_that_are_no_class_are_refused(fashion: Path) -> None:
    (fashion / LABELS).write_bytes(idx(np.full(60, 10, np.uint8)))
    refused(fashion_config(fashion), FASHION, "class")


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_to_split_are_refused(fashion: Path, count: int) -> None:
    (fashion / IMAGES).write_bytes(gzip.compress(idx(np.zeros((count, 6, 4), np.uint8))))
    (fashion / LABELS).write_bytes(idx(np.zeros(count, np.uint8)))
    refused(fashion_config(fashion), FASHION, "image")


def test_fashion_of_another_size_than_the_model_is_a_config_error(fashion: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.image_size: must be \(6, 4\)"):
        load_data(fashion_config(fashion), ModelConfig(image_size=28, patch_size=4))


SHADES = {"cat": 200, "dog": 40}
FOLDER = ModelConfig(image_size=(4, 6), patch_size=2, channels=3, num_classes=2)


def paint(folder: Path, count: int, size: tuple[int, int] = (12, 8), suffix: str = "png") -> None:
    """Write class folders of images whose shade tells the class and the number."""
    for name, shade in SHADES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", size, (shade, shade + number % 50, 7))
            image.save(folder / name / f"{number}.{suffix}")


def folder_config(folder: Path) -> DataConfig:
    return DataConfig(name=f"folder:{folder}")


def test_class_folders_are_split_three_ways(tmp_path: Path) -> None:
    paint(tmp_path, 20)
    config = folder_config(tmp_path)
    data, test = load_data(config, FOLDER), load_test(config, FOLDER)
    assert (len(data.train), len(data.validation), len(test)) == (24, 8, 8)
    assert data.classes == ("cat", "dog")
    together = [*keys(data.train), *keys(data.validation), *keys(test)]
    assert len(set(together)) == 40
    for split in (data.train, data.validation, test):
        assert split.images.shape[1:] == (3, 4, 6)
        shades = split.images[:, 0].mean(axis=(1, 2))
        assert np.array_equal(shades == SHADES["cat"], split.labels == 0)
        assert abs(int((split.labels == 0).sum()) * 2 - len(split)) <= 1


def test_given_parts_are_kept_apart(tmp_path: Path) -> None:
    paint(tmp_path / "train", 12)
    paint(tmp_path / "test", 3)
    config = folder_config(tmp_path)
    data, test = load_data(config, FOLDER), load_test(config, FOLDER)
    assert (len(data.train), len(data.validation), len(test)) == (18, 6, 6)
    paint(tmp_path / "validation", 2)
    data = load_data(config, FOLDER)
    assert (len(data.train), len(data.validation)) == (24, 4)


def test_one_channel_makes_the_images_grey(tmp_path: Path) -> None:
    paint(tmp_path, 6, suffix="jpg")
    data = load_data(folder_config(tmp_path), FOLDER.replace(channels=1))
    assert data.train.images.shape[1:] == (1, 4, 6)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_have_one_or_three_channels(tmp_path: Path, channels: int) -> None:
    paint(tmp_path, 6)
    with pytest.raises(ConfigError, match=r"model\.channels: must be 1 or 3"):
        load_data(folder_config(tmp_path), FOLDER.replace(channels=channels))


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "pets", 6)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_data(DataConfig(name="folder:~/pets"), FOLDER).classes == ("cat", "dog")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.75])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str, part: float) -> None:
    paint(tmp_path, 6, size=(64, 64), suffix=suffix)
    path = tmp_path / "dog" / f"3.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(folder_config(tmp_path), FOLDER, str(path), "no readable image")


def test_a_corrupt_image_is_an_image_or_named(tmp_path: Path) -> None:
    paint(tmp_path, 2)
    path = tmp_path / "dog" / "1.png"
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    refusals = []
    for place in range(len(content)):
        for value in (0x00, 0x01, 0x12, 0x80):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                load_everything(folder_config(tmp_path), FOLDER)
            except DataError as error:
                refusals.append(str(error))
    assert len(refusals) > len(content)
    assert all(str(path) in refusal and "\n" not in refusal for refusal in refusals)


def test_an_image_that_unpacks_to_gigabytes_is_named(tmp_path: Path) -> None:
    paint(tmp_path, 2)
    path = tmp_path / "dog" / "1.png"
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = []
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + content))
        chunks.append(struct.pack(">I", len(content)) + kind + content + check)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    refused(folder_config(tmp_path), FOLDER, str(path), "no readable image")


def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path) -> None:
    refused(folder_config(tmp_path / "absent"), FOLDER, "absent is not a folder")
    refused(folder_config(tmp_path), FOLDER, "has no two folders of images")
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    refused(folder_config(tmp_path), FOLDER, "has no two folders of images")
    Image.new("L", (4, 4)).save(tmp_path / "cat" / "1.png")
    refused(folder_config(tmp_path), FOLDER, "image")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_folders_too_small_to_split_are_refused_and_small_ones_are_split(
    tmp_path: Path, count: int
) -> None:
    paint(tmp_path, count)
    if count == 1:
        refused(folder_config(tmp_path), FOLDER, "image")
        return
    data = load_data(folder_config(tmp_path), FOLDER)
    test = load_test(folder_config(tmp_path), FOLDER)
    assert min(len(data.train), len(data.validation), len(test)) >= 1
    assert len(data.train) + len(data.validation) + len(test) == 2 * count


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    paint(tmp_path / "train", 6)
    paint(tmp_path / "test", 3)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    refused(folder_config(tmp_path), FOLDER, "wolf", "use the same class folders")


def test_more_images_than_memory_should_hold_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path, 6)
    monkeypatch.setattr(
        data_module, "available_bytes", lambda: 10 * 3 * 4 * 6 - 1
    )  # 2 are for tests
    monkeypatch.setattr(Image, "open", None)
    config = folder_config(tmp_path).replace(cache="memory")
    refused(config, FOLDER, "memory", "smaller model.image_size")


def test_a_folder_of_other_classes_than_the_model_is_a_config_error(tmp_path: Path) -> None:
    paint(tmp_path, 6)
    with pytest.raises(ConfigError, match=r"model\.num_classes: must be 2"):
        load_data(folder_config(tmp_path), FOLDER.replace(num_classes=10))


def test_an_idx_file_that_unpacks_without_end_is_refused(
    fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "LARGEST_IDX", 10_000)
    content = idx(np.zeros((60, 6, 4), np.uint8)) + bytes(10**6)
    (fashion / IMAGES).write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="over 10,000 bytes"):
        load_data(DataConfig(name="fashion-mnist", path=fashion), ModelConfig(image_size=(6, 4)))
