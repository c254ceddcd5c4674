"""Shards, tables of Hugging Face and torchvision's datasets: as class folders are read."""

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import webdataset
from idx_files import idx
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from castling.config import DataConfig, ModelConfig, RunConfig
from castling.data import DATASETS
from castling.data.index import INDEX_FILE, SKIPPED_FILE, IndexFile
from castling.data.selection import Selection
from castling.data.sources import list_sources, source_name, source_settings
from castling.errors import DataError
from castling.testing import DatasetContract
from castling.training.data import images_for_tests, training_batches, training_data
from castling.training.fingerprint import fingerprint


MODEL = ModelConfig(image_size=8, patch_size=2, channels=1, num_classes=10)
DIGITS = load_digits()
IMAGES, LABELS = (DIGITS.images * 15).astype(np.uint8), DIGITS.target
NAMES = [f"d{number}" for number in range(10)]
SPLITS = {"train": range(200), "validation": range(200, 260), "test": range(260, 300)}


def encoded(row: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(IMAGES[row]).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(autouse=True)
def quiet(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    cache = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def table(rows: Any, labels: Any = None, kind: Any = None, **more: list[Any]) -> Any:
    """Return digits as a table of Hugging Face."""
    features = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=NAMES)}
    columns = {
        "image": [{"bytes": encoded(row), "path": None} for row in rows],
        "label": LABELS[rows].tolist() if labels is None else labels,
    }
    for name, values in more.items():
        features[name], columns[name] = datasets.ClassLabel(names=NAMES), values
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write_table(root: Path) -> str:
    tables = {name: table(rows) for name, rows in SPLITS.items()}
    datasets.DatasetDict(tables).save_to_disk(str(root / "table"))
    return f"hf:{root / 'table'}"


def write_shards(root: Path, names: list[str] | None = NAMES) -> str:
    """Write shards as WebDataset's own writer does, fifty digits in each."""
    for split, rows in SPLITS.items():
        pattern = str(root / "shards" / f"digits-{split}-%03d.tar")
        (root / "shards").mkdir(parents=True, exist_ok=True)
        with webdataset.ShardWriter(pattern, maxcount=50, verbose=0) as writer:
            for row in rows:
                label = int(LABELS[row])
                writer.write({"__key__": f"{row:04}", "png": encoded(row), "cls": label})
    if names is not None:
        (root / "shards" / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
    return f"wds:{root / 'shards'}"


def write_folder(root: Path) -> str:
    for split, rows in SPLITS.items():
        for row in rows:
            path = root / "folder" / split / NAMES[LABELS[row]] / f"{row:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(row))
    return f"folder:{root / 'folder'}"


@pytest.fixture(params=[write_table, write_shards])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name: str = request.param(tmp_path)
    return name


def run_of(name: str, model: ModelConfig = MODEL, **data: Any) -> RunConfig:
    return RunConfig(model=model, data=DataConfig(name=name, **data))


def pairs(images: Any) -> set[tuple[bytes, int]]:
    return {
        (image.tobytes(), int(n)) for image, n in zip(images.images, images.labels, strict=True)
    }


def sentence(name: str, *words: str, **data: Any) -> None:
    with pytest.raises(DataError) as caught:
        training_data(run_of(name, **data))
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


class TestTable(DatasetContract):
    @pytest.fixture
    def config(self, tmp_path: Path) -> DataConfig:
        return DataConfig(name=write_table(tmp_path))


class TestShards(DatasetContract):
    @pytest.fixture
    def config(self, tmp_path: Path) -> DataConfig:
        return DataConfig(name=write_shards(tmp_path))


class TestTorchvision(DatasetContract):
    @pytest.fixture
    def config(self, tmp_path: Path) -> DataConfig:
        return DataConfig(name="torch:MNIST", path=write_mnist(tmp_path))


def test_the_images_are_those_of_class_folders(source: str, tmp_path: Path) -> None:
    data, folder = training_data(run_of(source)), training_data(run_of(write_folder(tmp_path)))
    assert data.classes == folder.classes == tuple(NAMES)
    assert pairs(data.train) == pairs(folder.train)
    assert pairs(data.validation) == pairs(folder.validation)
    assert data.statistics.mean == pytest.approx(folder.statistics.mean, rel=1e-5)
    test = images_for_tests(run_of(source))
    assert pairs(test) == pairs(images_for_tests(run_of(f"folder:{tmp_path / 'folder'}")))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_workers_are_resumed_exactly(source: str, workers: int) -> None:
    def epoch(workers: int, first_step: int = 0) -> list[torch.Tensor]:
        run = run_of(source, cache="off", loader_workers=workers)
        batches, _ = training_batches(training_data(run), run, torch.device("cpu"))
        order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
        steps = batches.shuffled(order, [64, 64, 72], seed=3, first_step=first_step)
        found = [batch.images for batch in steps]
        batches.close()
        return found

    whole = epoch(0)
    assert all(map(torch.equal, whole, epoch(workers)))
    assert all(map(torch.equal, whole[1:], epoch(workers, first_step=1)))


def test_a_run_lists_them_once_and_sees_when_they_change(source: str, tmp_path: Path) -> None:
    first = IndexFile(tmp_path / "run" / INDEX_FILE, is_new=True)
    begun = training_data(run_of(source), index=first)
    first.write()
    kind = DATASETS[source.partition(":")[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "listed", None)
        again = training_data(run_of(source), index=IndexFile(first.path))
    assert fingerprint(again.train) == fingerprint(begun.train)
    if source.startswith("wds:"):
        path = next(Path(source[4:]).glob("*train-001.tar"))
        path.write_bytes(path.read_bytes() + bytes(10_240))
    else:
        datasets.DatasetDict({"train": table(range(100))}).save_to_disk(source[3:])
    with pytest.raises(
        DataError, match="parts are gone or changed since the run began, the first"
    ):
        training_data(run_of(source), index=IndexFile(first.path))


def test_a_broken_image_stops_or_is_skipped_and_named(tmp_path: Path) -> None:
    good = table(SPLITS["train"])
    broken = good.cast_column("image", datasets.Image(decode=False)).map(
        lambda row, place: {"image": {"bytes": b"x" if place < 10 else row["image"]["bytes"]}},
        with_indices=True,
        features=datasets.Features(
            {"image": datasets.Image(decode=False), "label": good.features["label"]}
        ),
    )
    broken.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "table"))
    sentence(f"hf:{tmp_path / 'table'}", "is no readable image", "data.on_error: skip")
    file = IndexFile(tmp_path / "run" / INDEX_FILE, is_new=True)
    data = training_data(run_of(f"hf:{tmp_path / 'table'}", on_error="skip"), index=file)
    file.write()
    assert len(data.train) + len(data.validation) + 38 == 190
    assert "train/7," in (tmp_path / "run" / SKIPPED_FILE).read_text()


def test_what_hugging_face_cannot_give_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(name: str, whole: Any) -> str:
        whole.save_to_disk(str(tmp_path / name))
        return f"hf:{tmp_path / name}"

    rows, value = range(40), datasets.Value
    split = datasets.DatasetDict({"test": table(rows), "unsupervised": table(rows)})
    sentence(saved("a", split), "no train split, but test, unsupervised", "call the training")
    plain = table(rows).remove_columns("label")
    sentence(saved("b", plain), "no label column among image", "data.label_column")
    numbers = table(rows, kind=value("int64"))
    sentence(saved("c", numbers), "classes without names (int64)", "ClassLabel(names=[...])")
    several = table(rows, fine=LABELS[rows].tolist(), coarse=[0] * 40).remove_columns("label")
    sentence(saved("d", several), "several label columns, fine, coarse")
    model = MODEL.replace(num_classes=10)
    chosen = training_data(run_of(f"hf:{tmp_path / 'd'}", model, label_column="fine"))
    assert chosen.classes == tuple(NAMES)
    sentence(f"hf:{tmp_path / 'd'}", "no column of classes nope", label_column="nope")
    words = table(rows, [NAMES[one] for one in LABELS[rows]], value("string"))
    assert training_data(run_of(saved("e", words))).classes == tuple(NAMES)
    unknown = table(rows, [-1, *LABELS[1:40].tolist()])
    sentence(saved("f", unknown), "row 0 of its split train has no class")
    pictureless = table(rows).remove_columns("image")
    sentence(saved("g", pictureless), "one column of images, got none of label")
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "state.json").write_text("{")
    sentence(f"hf:{tmp_path / 'h'}", "cannot be loaded", "save_to_disk")
    monkeypatch.setitem(sys.modules, "datasets", None)
    sentence(
        f"hf:{tmp_path / 'a'}", "needs the package datasets", "pip install 'castling-nas[hf]'"
    )


def test_a_folder_of_images_is_loaded_by_hugging_face(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    name = f"hf:{folder.partition(':')[2]}"
    assert pairs(training_data(run_of(name)).train) == pairs(training_data(run_of(folder)).train)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def tar(tmp_path: Path) -> Callable[..., str]:
    def write(*members: tuple[str, bytes], name: str = "some.tar") -> str:
        with tarfile.open(tmp_path / name, "w") as archive:
            for member, content in members:
                add(archive, member, content)
        return f"wds:{tmp_path / name}"

    return write


def words(rows: range = range(40)) -> Iterator[tuple[str, bytes]]:
    """Yield digits whose .cls is a name."""
    for row in rows:
        yield f"in/{row}.png", encoded(row)
        yield f"in/{row}.cls", NAMES[LABELS[row]].encode()


def test_classes_may_be_words_or_stand_in_a_json(tar: Callable[..., str]) -> None:
    assert training_data(run_of(tar(*words()))).classes == tuple(NAMES)
    facts = [
        (f"{row}.{ending}", content)
        for row in range(40)
        for ending, content in (
            ("json", json.dumps({"label": 3, "kind": NAMES[LABELS[row]]}).encode()),
            ("PNG", encoded(row)),
            ("txt", b"a digit"),
        )
    ]
    run = run_of(tar(*facts), label_column="kind")
    assert training_data(run).classes == tuple(NAMES)
    found = DATASETS["wds"](run.data, MODEL).findings()
    assert found.notes == ("members that are neither images nor classes: 40 .txt",)
    assert found.widths == (8, 8)


def test_what_a_shard_cannot_give_is_one_sentence(tar: Callable[..., str], tmp_path: Path) -> None:
    sentence(tar(("a.txt", b"x"), ("a.cls", b"1")), "no images of Pillow's formats")
    sentence(
        tar(("a.png", encoded(0)), ("a.cls", b"1")), "numbers without names", "classnames.txt"
    )
    sentence(tar(("a.png", encoded(0))), "some.tar/a.png has no .cls", "on_error: skip")
    sentence(tar(("a.png", b""), ("a.cls", b"1")), "is empty")
    sentence(tar(*words(), ("a.png", encoded(0)), ("a.jpg", b"x")), "a.jpg has two images")
    sentence(tar(("a.png", encoded(0)), ("a.cls", b"one")), "no two classes, but one")
    (tmp_path / "classnames.txt").write_text("a\nb\n")
    sentence(
        tar(("a.png", encoded(0)), ("a.cls", b"2")), "has 2 names and no 2", "order of numbers"
    )
    (tmp_path / "classnames.txt").unlink()
    name = tar(*words())
    content = Path(name[4:]).read_bytes()
    Path(name[4:]).write_bytes(content[: len(content) // 3])
    sentence(name, "is no whole tar file", "restore the shard")
    Path(name[4:]).write_bytes(b"no tar" * 99)
    sentence(name, "is no whole tar file")
    sentence(f"wds:{tmp_path / 'nope'}", "does not exist")
    (tmp_path / "empty").mkdir()
    sentence(f"wds:{tmp_path / 'empty'}", "has no .tar files")
    tar(*words(), name="empty/digits-test-0.tar")
    sentence(f"wds:{tmp_path / 'empty'}", "no train split, but digits-test-0.tar")
    (tmp_path / "empty" / "b.tar.gz").write_bytes(b"x")
    sentence(f"wds:{tmp_path / 'empty'}", "b.tar.gz is compressed", "unpack")


def test_splits_of_shards_are_folders_or_words_of_names(
    tar: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("Train", "val", "other"):
        (tmp_path / "set" / name).mkdir(parents=True)
    tar(*words(), name="set/Train/0.tar")
    tar(*words(range(40, 60)), name="set/Train/1.tar")
    tar(*words(range(60, 80)), name="set/val/0.tar")
    tar(*words(range(80, 90)), name="set/some-TEST-10.tar")
    tar(*words(range(80, 90)), name="set/extra.tar")
    dataset = DATASETS["wds"](DataConfig(name=f"wds:{tmp_path / 'set'}"), MODEL)
    assert dataset.info().sizes == {"train": 60, "validation": 20, "test": 10}
    assert dataset.findings().notes == ("shards of no split are not read: extra.tar",)
    train = Selection.whole(dataset.open("train"))
    assert train.source.name(45).endswith("set/Train/1.tar/in/45.png")
    assert (np.asarray(train.picture(45)) == IMAGES[45]).all()


def test_a_cache_on_disk_is_made_anew_for_other_shards(
    tar: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = [*words()]
    run = run_of(tar(*content), cache="disk")
    before = training_data(run).train
    swapped = [(name, encoded(99) if "png" in name else text) for name, text in content]
    after = training_data(run_of(tar(*swapped), cache="disk")).train
    assert isinstance(before, Selection)
    assert isinstance(after, Selection)
    assert (np.asarray(before.picture(0)) != np.asarray(after.picture(0))).any()


def write_mnist(root: Path) -> Path:
    """Write digits, in the middle of 28 x 28 pixels, where torchvision looks for MNIST's files."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.pad(IMAGES, ((0, 0), (10, 10), (10, 10)))
    for prefix, rows in (("train", slice(0, 200)), ("t10k", slice(200, 260))):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images[rows]))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(LABELS[rows].astype(np.uint8)))
    return root


def test_arrays_of_torchvision_are_read_as_they_are(tmp_path: Path) -> None:
    model = MODEL.replace(image_size=28, patch_size=7)
    run = run_of("torch:MNIST", model, path=write_mnist(tmp_path))
    index = IndexFile(tmp_path / "run" / INDEX_FILE, is_new=True)
    test = images_for_tests(run, index=index)
    index.write()
    assert (test.images[:, 0, 10:18, 10:18] == IMAGES[200:260]).all()
    assert test.labels.tolist() == LABELS[200:260].tolist()
    assert training_data(run).classes[3] == "3 - three"
    images_for_tests(run, index=IndexFile(index.path))
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.append(LABELS[200:259], 9 - LABELS[259]).astype(np.uint8)))
    found = DATASETS["torch"](run.data, model)
    found.use_index(IndexFile(index.path))
    assert "1 parts were written anew" in found.findings().notes[0]


def test_files_of_torchvision_are_decoded_by_castling(tmp_path: Path) -> None:
    """EuroSAT's and DTD's folders, with parts of photographs in them."""
    photos = load_sample_images().images
    turned = Image.Exif()
    turned[0x0112] = 3
    for label, kind in enumerate(("Forest", "River")):
        for number in range(10):
            part = Image.fromarray(photos[label][number * 20 :][:64, :64])
            for root in (f"eurosat/2750/{kind}", f"dtd/dtd/images/{kind}"):
                path = tmp_path / root / f"{kind}_{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                part.save(path, exif=turned if number == 0 else b"")
    lists = tmp_path / "dtd" / "dtd" / "labels"
    lists.mkdir()
    for split, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        lines = [f"{kind}/{kind}_{n}.jpg\n" for kind in ("Forest", "River") for n in numbers]
        (lists / f"{split}1.txt").write_text("".join(lines))
    model = ModelConfig(image_size=64, patch_size=8, channels=3, num_classes=2)
    config = DataConfig(name="torch:EuroSAT", path=tmp_path)
    satellite = DATASETS["torch"](config, model)
    assert satellite.info().sizes == {"train": 20}
    folder = DATASETS["folder"](DataConfig(name=f"folder:{tmp_path}/eurosat/2750"), model)
    rows = np.arange(20)  # of which two are turned
    assert (satellite.open("train").read(rows) == folder.open("train").read(rows)).all()
    textures = DATASETS["torch"](config.replace(name="torch:DTD"), model)
    assert textures.info().sizes == {"train": 12, "validation": 4, "test": 4}
    (tmp_path / "dtd/dtd/images/River/River_7.jpg").unlink()
    again = DATASETS["torch"](config.replace(name="torch:DTD"), model)
    with pytest.raises(DataError, match=r"River_7\.jpg is gone; restore it"):
        again.info()


def test_what_torchvision_cannot_give_is_one_sentence(tmp_path: Path) -> None:
    sentence("torch:MNIST", "folder above torchvision's own; set data.path")
    sentence("torch:CIFAR10", "no whole CIFAR10", "data.download", path=tmp_path)
    sentence("torch:ImageNet", "no whole ImageNet", path=tmp_path)
    sentence("torch:Kinetics", "must be one of CIFAR10, CIFAR100,", path=tmp_path)


def test_images_on_the_command_line_may_be_any_source(source: str, tmp_path: Path) -> None:
    settings = {"data.name": source, "model.num_classes": 10}
    assert source_settings(source, {}) == settings
    assert source_name(source) == source
    assert source_name(tmp_path) == f"folder:{tmp_path}"
    mnist = source_settings("torch:MNIST", {"data.path": write_mnist(tmp_path)})
    assert mnist == {"data.name": "torch:MNIST", "model.num_classes": 10}
    with pytest.raises(DataError, match="does not exist"):
        source_settings("wds:nowhere", {})
    listed = {name: needs for name, _, needs in list_sources()}
    assert listed["wds:PATH"] == listed["hf:NAME"] == "-"
