"""One split of a dataset as two arrays."""

from dataclasses import dataclass

from castling.data.dataset import Images, Labels, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images (image, channel, height, width) and their classes (image)."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows as a new array."""
        return self.images[rows]
