"""Class folders as users lay them out: splits in any spelling, odd files, what is skipped."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from castling.config import DataConfig, ModelConfig
from castling.data.class_folders import build_index
from castling.data.folder import Folder, folder_settings
from castling.data.index import ImageIndex
from castling.errors import DataError
from castling.training.data import load_data, load_test
from castling.untrusted.image_folders import Reached, list_images
from castling.untrusted.name_order import sort_key


MODEL = ModelConfig(image_size=(4, 4), patch_size=2, channels=1, num_classes=2)
PIXEL = (
    b"GIF87a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff"
    b"\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)


def put(root: Path, *names: str) -> Path:
    """Write images of one pixel."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PIXEL)
    return root


def pets(root: Path, count: int = 3) -> Path:
    return put(root, *(f"{pet}/{number}.gif" for pet in ("cat", "dog") for number in range(count)))


def listed(root: Path, *, skip: bool = False) -> ImageIndex:
    return build_index(root, "pets", "test", skip=skip)


def refused(root: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        listed(root)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("validation", ["val", "Valid", "validation", "dev", "EVAL"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_splits_are_known_in_every_usual_spelling(
    train: str, validation: str, test: str, tmp_path: Path
) -> None:
    for number, split in enumerate((train, validation, test), start=1):
        pets(tmp_path / split, number)
    index = listed(tmp_path)
    assert index.counts == {"train": 2, "validation": 4, "test": 6}
    assert index.names[2] == f"{validation}/cat/0.gif"
    assert folder_settings(tmp_path)["model.num_classes"] == 2


def test_val_without_test_validates_and_test_images_are_drawn(tmp_path: Path) -> None:
    pets(tmp_path / "train", 10)
    pets(tmp_path / "val", 2)
    config = DataConfig(name=f"folder:{tmp_path}")
    data = load_data(config, MODEL)
    assert (len(data.train), len(data.validation), len(load_test(config, MODEL))) == (16, 4, 4)


def test_train_alone_is_split_like_class_folders(tmp_path: Path) -> None:
    pets(tmp_path / "train", 10)
    config = DataConfig(name=f"folder:{tmp_path}")
    data = load_data(config, MODEL)
    assert (len(data.train), len(data.validation), len(load_test(config, MODEL))) == (12, 4, 4)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path, "train/1.gif", "bus/1.gif", "test/1.gif", "bus/old/2.gif")
    index = listed(tmp_path)
    assert index.classes == ("bus", "test", "train")
    assert index.counts == {"train": 4}


def test_splits_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    pets(tmp_path / "train")
    pets(tmp_path / "val")
    pets(tmp_path / "valid")
    refused(tmp_path, "val/ and valid/", "keep one of them")
    (tmp_path / "train").rename(tmp_path / "test")
    (tmp_path / "valid").rename(tmp_path / "dev")
    refused(tmp_path, "has dev/, test/, val/ but no train/")


def test_classes_of_other_splits_are_those_of_training_images(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/{name}/1.gif" for name in ("ant", "bee", "cat")))
    put(tmp_path, "val/cat/1.gif", "val/ant/1.gif", "extra/1.gif")
    index = listed(tmp_path)
    assert index.labels.tolist() == [0, 1, 2, 0, 2]
    assert index.notes[0] == "folders beside train/ are not read: extra"
    assert index.notes[1].endswith("val has no images of 1 class: bee")
    put(tmp_path, "val/wolf/1.gif")
    refused(tmp_path, "classes that the training images lack: wolf")


def test_a_test_folder_without_classes_is_not_read_and_said(tmp_path: Path) -> None:
    pets(tmp_path / "train")
    put(tmp_path, "test/1.gif")
    index = listed(tmp_path)
    assert index.counts == {"train": 6}
    assert index.notes == ("test/ has images but no class folders, and is not read",)


def test_folders_in_class_folders_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "cat/2023/1.gif", "cat/2024/1.gif", "cat/0.gif", "dog/2023/1.gif")
    index = listed(tmp_path)
    assert index.classes == ("cat", "dog")
    assert index.labels.tolist() == [0, 0, 0, 1]


def test_hidden_and_system_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, ".ipynb_checkpoints/1.gif", "cat/.ipynb_checkpoints/1.gif", "cat/._1.gif")
    put(tmp_path, "__MACOSX/cat/1.gif", "dog/Thumbs.db", "@eaDir/1.gif")
    index = listed(tmp_path)
    assert (index.classes, len(index)) == (("cat", "dog"), 6)
    assert index.notes == ("hidden files and folders are passed over (6)",)


def test_other_files_and_strays_are_counted_and_named(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, "overview.png", "cat/notes.txt", "cat/a.heic", "dog/b.heic", "dog/README")
    index = listed(tmp_path)
    assert len(index) == 6
    assert index.notes == (
        "images beside the class folders are not used (1): overview.png",
        "files that are no images of Pillow's formats (4): 2 .heic, 1 .txt, 1 no suffix",
    )


@pytest.mark.parametrize(
    "suffix", ["bmp", "GIF", "webp", "TIF", "ppm", "jp2", "jfif", "tga", "mpo"]
)
def test_images_of_all_formats_are_listed(suffix: str, tmp_path: Path) -> None:
    put(tmp_path, f"cat/1.{suffix}", f"dog/1.{suffix}")
    assert len(listed(tmp_path)) == 2


def test_an_empty_class_folder_is_refused_or_skipped(tmp_path: Path) -> None:
    pets(tmp_path)
    put(tmp_path, "bird/notes.txt")
    refused(tmp_path, "the class folder", "bird has no images", "on_error: skip")
    assert "1 class folder without images: bird" in listed(tmp_path, skip=True).notes


def test_one_folder_too_high_is_named(tmp_path: Path) -> None:
    pets(tmp_path / "photos")
    refused(tmp_path, "no two folders of images", f"give {tmp_path / 'photos'}")


def test_what_can_be_no_image_is_refused_or_skipped_with_its_reason(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "cat" / "empty.png").touch()
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere")
    refused(tmp_path, "empty.png is no readable image (it is empty)")
    index = listed(tmp_path, skip=True)
    assert len(index) == 6
    assert {one.name: one.reason for one in index.skipped} == {
        "cat/empty.png": "is no readable image (it is empty)",
        "cat/pipe.png": "is no regular file",
        "dog/gone.png": "is no readable image (No such file or directory)",
    }


def test_skipping_decodes_every_image_once_and_keeps_labels(tmp_path: Path) -> None:
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (9, 9), 100 * place + number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cat" / "3.png").write_bytes(b"broken")
    path = tmp_path / "dog" / "7.png"
    path.write_bytes(path.read_bytes()[:40])
    config = DataConfig(name=f"folder:{tmp_path}", on_error="skip")
    folder = Folder(config, MODEL)
    split = folder.open("train")
    assert len(split.labels) == 18
    assert [picture // 100 for picture in split.read(np.arange(18))[:, 0, 0, 0]] == [
        *split.labels.tolist()
    ]
    found = folder.findings()
    assert found.num_skipped == 2
    assert "cat/3.png" in found.skipped[0]
    with pytest.raises(DataError, match=r"3\.png is no readable image"):
        load_data(config.replace(on_error="stop"), MODEL)


PARTS = st.sampled_from(
    ["a", "A", "b", "1", "01", "2", "10", "a1", "a-1", "a 2", "é", "ß", "0x", "²"]
)
PATHS = st.lists(st.tuples(PARTS, PARTS, st.booleans(), PARTS), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(paths=PATHS, seed=st.integers(0, 9))
def test_the_order_is_that_of_all_paths_whoever_wrote_them_first(
    paths: list[tuple[str, str, bool, str]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = {
        f"{top}/{inner}/{name}.gif" if nested else f"{top}/{name}.gif"
        for top, inner, nested, name in paths
    }
    root = tmp_path_factory.mktemp("root")
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    listing = list_images(put(root, *shuffled), Reached("x"))
    assert [*listing.names] == sorted(names, key=sort_key)
    for name, label in zip(listing.names, listing.labels, strict=True):
        assert listing.classes[label] == name.partition("/")[0]
    assert [*listing.classes] == sorted({*listing.classes}, key=sort_key)


LISTED = """
import sys
from pathlib import Path
from castling.data.class_folders import build_index
index = build_index(Path(sys.argv[1]), "pets", "test", skip=False)
print(ascii(index.classes), [index.names.raw(n) for n in range(len(index))], index.labels.tolist())
"""


def test_the_order_depends_on_neither_hash_seed_nor_locale(tmp_path: Path) -> None:
    put(tmp_path, "A/1.gif", "a/1.gif", "Ä/1.gif", "z/2.gif", "z/10.gif")
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    put(tmp_path, os.fsdecode(b"caf\xe9/1.gif"))
    found = {
        subprocess.run(
            [sys.executable, "-X", "utf8=0", "-c", LISTED, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, environment in (
            ("0", {"LC_ALL": "C.UTF-8"}),
            ("1", {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}),
        )
    }
    assert len(found) == 1, found
    assert "caf\\\\xe9" in found.pop()


def test_odd_names_are_listed_and_shown_in_one_line(tmp_path: Path) -> None:
    pets(tmp_path)
    odd = ["new\nline.png", "[b]:car:.png", "x" * 251 + ".png", os.fsdecode(b"\xff.png")]
    for name in odd:
        Image.new("L", (4, 4)).save(tmp_path / "cat" / "x.png")
        (tmp_path / "cat" / "x.png").rename(tmp_path / "cat" / name)
    index = listed(tmp_path)
    assert {Path(name).name for name in index.names} >= {*odd}
    (tmp_path / "cat" / odd[0]).write_bytes(b"")
    refused(tmp_path, "new\\nline.png is no readable image")


@given(st.lists(st.text(st.sampled_from("aAbZ09_. 71\u0663\u00e9\u0130"), min_size=1, max_size=9)))
def test_names_are_sorted_by_their_texts_and_numbers(names: list[str]) -> None:
    def slowly(name: str) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", name.lower())
        return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], name

    assert sorted(names, key=sort_key) == sorted(names, key=slowly)
    assert all(sort_key(name).rpartition("\0")[2] == name for name in names)
