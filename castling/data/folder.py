"""The dataset `folder:PATH`: images in class folders, resized to the model's image size."""

from pathlib import Path
from typing import Any

from castling.data.class_folders import build_index
from castling.data.dataset import DATASETS
from castling.data.index import ImageIndex
from castling.data.indexed import IndexedDataset
from castling.data.pictures import FileStore


@DATASETS.register("folder")
class Folder(IndexedDataset):
    """Class folders; or train/, and perhaps val/ and test/, with class folders in them.

    The class of an image is the folder that it is in, directly below the root or the split's
    folder, at any depth: as torchvision has it.
    """

    argument = "PATH"

    def listed(self, source: str) -> ImageIndex:
        """Return an index of the files.

        Raises:
            DataError: when there are no images of two classes, or the splits differ in classes.
        """
        return build_index(self._root, self.config.name, source, skip=self.skips)

    def checked(self, index: ImageIndex) -> ImageIndex:
        """Return an index of earlier; DataError when its images are gone or of other sizes."""
        return self.store(index).checked()

    def store(self, index: ImageIndex) -> FileStore:
        """Return what decodes the files."""
        return FileStore(root=self._root, index=index, data=self.config.name)

    @property
    def _root(self) -> Path:
        return Path(self._argument).expanduser()


def folder_settings(folder: str | Path) -> dict[str, Any]:
    """Return the config settings that a folder of images asks for: its name and its classes.

    Raises:
        DataError: when it is no folder of class folders.
    """
    root = Path(folder).expanduser().absolute()
    name = f"folder:{root}"
    index = build_index(root, name, "", skip=True)  # what is wrong is said when images are loaded
    return {"data.name": name, "model.num_classes": len(index.classes)}
