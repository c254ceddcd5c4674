"""One split of a dataset as two arrays."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from castling.data.dataset import Images, Labels, Rows


if TYPE_CHECKING:
    from castling.data.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images (image, channel, height, width) and their classes (image)."""

    images: Images
    labels: Labels
    pictures: "Selection | None" = None
    """Where the images are from, at their own size, for random crops; None where this is it."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows as a new array."""
        return self.images[rows]
