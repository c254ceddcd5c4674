"""Which files of a folder are images, in which order, and of which class."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from castling.config import DataConfig, ModelConfig
from castling.data.folder import Folder, folder_settings
from castling.errors import DataError
from castling.untrusted.image_folders import Reached, image_paths, list_images


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two class folders of two images each."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in (1, 2):
            Image.new("L", (4, 4), 10 * number).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def places(folder: Path) -> list[tuple[str, int]]:
    reached = Reached("pets")
    found = list_images(folder, reached)
    reached.check_links()
    assert {*found.classes} == {name.partition("/")[0] for name in found.names}
    assert [str(path.relative_to(folder)) for path in image_paths(folder, "")] == [*found.names]
    return list(zip(found.names, found.labels.tolist(), strict=True))


def test_images_are_sorted_by_class_and_number(pets: Path) -> None:
    (pets / "cat" / "10.PNG").write_bytes((pets / "cat" / "1.png").read_bytes())
    (pets / "cat" / "notes.txt").write_text("no image")
    assert places(pets) == [
        ("cat/1.png", 0), ("cat/2.png", 0), ("cat/10.PNG", 0), ("dog/1.png", 1), ("dog/2.png", 1),
    ]  # fmt: skip


def test_links_out_of_the_folder_are_followed(pets: Path, tmp_path: Path) -> None:
    elsewhere = pets.rename(tmp_path / "elsewhere")
    pets.mkdir()
    (pets / "dog").symlink_to(elsewhere / "dog")
    (pets / "cat").mkdir()
    (pets / "cat" / "1.png").symlink_to(elsewhere / "cat" / "1.png")
    assert places(pets) == [("cat/1.png", 0), ("dog/1.png", 1), ("dog/2.png", 1)]
    assert folder_settings(pets)["model.num_classes"] == 2


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/up", ".."),
        ("cat/up", "../.."),
        ("cat/up", "/"),
        ("cat/up", "."),
        ("all", "."),
        ("cat/more", "../dog"),
        ("bird", "dog"),
        ("cat/3.png", "1.png"),
        ("cat/3.png", "../dog/1.png"),
    ],
)
def test_what_is_reached_twice_is_refused(link: str, target: str, pets: Path) -> None:
    (pets / link).symlink_to(target)
    if target.startswith(".") and link == "cat/up":
        (pets / "dog" / "up").symlink_to(target)  # two of them would be walked without end
    for reader in (lambda: image_paths(pets, "pets"), lambda: folder_settings(pets)):
        with pytest.raises(DataError, match="are the same, through a link; remove") as caught:
            reader()
        assert str(pets) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_two_links_to_one_folder_outside_are_refused(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (pets / "bird").symlink_to("../outside")
    (pets / "fish").symlink_to("../outside")
    with pytest.raises(DataError, match=r"(bird|fish) and .*(bird|fish) are the same"):
        image_paths(pets, "pets")


@pytest.mark.parametrize("link", ["test", "test/dog", "test/cat/1.png"])
def test_no_image_is_in_two_splits_through_a_link(link: str, pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(pets, root / "train")
    if link != "test":
        shutil.copytree(pets, root / "test")
        (shutil.rmtree if link == "test/dog" else os.unlink)(root / link)
    (root / link).symlink_to(root / link.replace("test", "train"))
    model = ModelConfig(image_size=(4, 4), patch_size=2, channels=1, num_classes=2)
    with pytest.raises(DataError, match="are the same, through a link; remove"):
        Folder(DataConfig(name=f"folder:{root}"), model).info()


def test_a_link_to_itself_is_no_folder(pets: Path) -> None:
    (pets / "loop").symlink_to("loop")
    assert len(places(pets)) == 4
