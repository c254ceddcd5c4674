"""The index of a run's images: written once, read by all, small, and true."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from castling.config import DataConfig, ModelConfig, RunConfig
from castling.data import class_folders, folder as folder_module, indexed
from castling.data.folder import Folder
from castling.data.index import INDEX_FILE, SKIPPED_FILE, ImageIndex, IndexFile
from castling.errors import CheckpointError, DataError
from castling.training import data as data_module
from castling.training.data import images_for_tests, training_data
from castling.untrusted.packed_names import PackedNames
from castling.untrusted.tensor_file import read_tensors, write_tensors


MODEL = ModelConfig(image_size=(4, 4), patch_size=2, channels=1, num_classes=2)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for shade, name in ((50, "cat"), (200, "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (6, 5), shade + number).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def run_of(pets: Path, on_error: str = "stop") -> RunConfig:
    return RunConfig(model=MODEL, data=DataConfig(name=f"folder:{pets}", on_error=on_error))


def begun(pets: Path, out: Path, on_error: str = "stop") -> IndexFile:
    file = IndexFile(out / INDEX_FILE, is_new=True)
    training_data(run_of(pets, on_error), index=file)
    file.write()
    return file


def test_an_index_is_read_as_it_was_written(pets: Path, tmp_path: Path) -> None:
    (pets / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes((pets / "cat" / "1.png").read_bytes())
    (pets / "dog" / "3.png").write_bytes(b"broken")
    written = begun(pets, tmp_path, "skip").index
    assert written is not None
    read = ImageIndex.read(tmp_path / INDEX_FILE)
    assert [*read.names] == [*written.names]
    for name in ("labels", "splits", "sizes", "mtimes"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    for name in ("source", "classes", "skipped", "notes", "counts"):
        assert getattr(read, name) == getattr(written, name)
    lines = (tmp_path / SKIPPED_FILE).read_text().splitlines()
    assert lines[0] == "image,reason"
    assert lines[1].startswith("dog/3.png,")


def test_files_are_listed_and_checked_once_in_a_run(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun(pets, tmp_path, "skip")
    (pets / "cat" / "new.png").write_bytes((pets / "cat" / "1.png").read_bytes())
    for module, name in ((folder_module, "build_index"), (indexed, "unreadable")):
        monkeypatch.setattr(module, name, None)
    later = IndexFile(tmp_path / INDEX_FILE)
    data = training_data(run_of(pets, "skip"), index=later)
    test = images_for_tests(run_of(pets, "skip"), data.preprocessing, later)
    assert len(data.train) + len(data.validation) + len(test) == 20
    assert first.index is not None
    later.write(tmp_path / "copy" / INDEX_FILE)
    assert (tmp_path / "copy" / INDEX_FILE).read_bytes() == (tmp_path / INDEX_FILE).read_bytes()


def test_images_that_are_gone_or_changed_are_noticed_in_one_sentence(
    pets: Path, tmp_path: Path
) -> None:
    begun(pets, tmp_path)
    (pets / "cat" / "3.png").unlink()
    (pets / "dog" / "1.png").write_bytes(b"more bytes than that image had" * 9)
    with pytest.raises(DataError) as caught:
        training_data(run_of(pets), index=IndexFile(tmp_path / INDEX_FILE))
    assert "2 of the 20 images" in str(caught.value)
    assert "the first cat/3.png; restore them" in str(caught.value)
    again = IndexFile(tmp_path / INDEX_FILE, relists=True)
    assert Folder(run_of(pets).data, MODEL).info().sizes == {"train": 19}
    with pytest.raises(DataError, match=r"1\.png is no readable image"):
        training_data(run_of(pets), index=again)


def test_images_that_were_touched_are_noted(pets: Path, tmp_path: Path) -> None:
    begun(pets, tmp_path)
    os.utime(pets / "cat" / "3.png", (1, 1))
    folder = Folder(run_of(pets).data, MODEL)
    folder.use_index(IndexFile(tmp_path / INDEX_FILE))
    assert folder.findings().notes == (
        "1 images were written anew since the run began, in the same sizes",
    )


def test_a_moved_folder_keeps_its_index(pets: Path, tmp_path: Path) -> None:
    begun(pets, tmp_path)
    moved = pets.rename(tmp_path / "moved")
    (moved / "cat" / "new.png").write_bytes(b"")
    data = training_data(run_of(moved), index=IndexFile(tmp_path / INDEX_FILE))
    assert len(data.train) == 12


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_index_is_refused(part: float, pets: Path, tmp_path: Path) -> None:
    begun(pets, tmp_path)
    content = (tmp_path / INDEX_FILE).read_bytes()
    (tmp_path / INDEX_FILE).write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match="remove it, and the images are listed anew"):
        training_data(run_of(pets), index=IndexFile(tmp_path / INDEX_FILE))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda column: column + 1),
        ("labels", lambda column: column[1:]),
        ("labels", lambda column: column.long()),
        ("splits", lambda column: column - 1),
        ("ends", lambda column: column.flip(0)),
        ("sizes", lambda column: -column),
        ("facts", lambda column: column[:-2]),
        ("characters", lambda column: torch.full_like(column, ord("/"))),
        ("characters", lambda column: torch.full_like(column, ord("."))),
    ],
)
def test_a_forged_index_is_refused(name: str, change: object, pets: Path, tmp_path: Path) -> None:
    begun(pets, tmp_path)
    tensors, metadata = read_tensors(tmp_path / INDEX_FILE)
    if name == "characters":
        tensors["ends"] = 2 * (1 + torch.arange(20))
        tensors["characters"] = tensors["characters"][:40]
    tensors[name] = change(tensors[name])  # type: ignore[operator]
    write_tensors(tmp_path / "forged", tensors, metadata)
    with pytest.raises(CheckpointError, match="it is damaged"):
        ImageIndex.read(tmp_path / "forged")


def test_a_million_paths_take_less_than_200_bytes_each() -> None:
    number = 100_000
    names = PackedNames.of(
        b"train/n%08d/n%08d_%d.JPEG" % (n // 1300, n // 1300, n) for n in range(number)
    )
    column = np.zeros(number, np.int64)
    index = ImageIndex(
        source="", classes=("x",), names=names, labels=column.astype(np.int32),
        splits=column.astype(np.int8), sizes=column, mtimes=column,
    )  # fmt: skip
    assert index.num_bytes < 90 * number
    assert names[number - 1] == "train/n00000076/n00000076_99999.JPEG"


def test_two_writers_leave_one_whole_index(pets: Path, tmp_path: Path) -> None:
    files = [begun(pets, tmp_path) for _ in range(2)]
    assert ImageIndex.read(files[0].path).classes == ("cat", "dog")
    assert [path.name for path in tmp_path.glob("*images*")] == [INDEX_FILE]


def test_splits_are_next_to_one_another_in_the_order_of_their_names(tmp_path: Path) -> None:
    for split, number in (("test", 1), ("val", 2), ("train", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for one in range(number):
                Image.new("L", (4, 4)).save(tmp_path / split / name / f"{one}.png")
    index = class_folders.build_index(tmp_path, "x", "y", skip=False)
    assert index.splits.tolist() == [0] * 6 + [1] * 4 + [2] * 2
    assert index.rows("test").tolist() == [10, 11]


def test_mean_and_deviation_are_kept_with_the_index_and_no_image_is_decoded_again(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(pets)
    run = run.replace(data=run.data.replace(cache="off"))
    file = IndexFile(tmp_path / INDEX_FILE, is_new=True)
    first = training_data(run, index=file)
    file.write()
    other = run.replace(data=run.data.replace(num_train=4))
    fewer = training_data(other, index=IndexFile(file.path))
    assert fewer.statistics != first.statistics
    monkeypatch.setattr(data_module, "streamed_statistics", None)
    again = training_data(run, index=IndexFile(file.path))
    assert again.preprocessing == first.preprocessing
    with pytest.raises(TypeError):  # of other images it is computed
        training_data(other, index=IndexFile(file.path))
    tensors, metadata = read_tensors(file.path)
    facts = bytes(tensors["facts"].tolist()).replace(b'"statistics": [["', b'"statistics": [[["')
    tensors["facts"] = torch.tensor(list(facts), dtype=torch.uint8)
    write_tensors(file.path, tensors, metadata)
    with pytest.raises(DataError, match="remove it, and the images are listed anew"):
        training_data(run, index=IndexFile(file.path))
