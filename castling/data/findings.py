"""What was found in the files of a dataset beside its images, for the user to see."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Facts of a dataset's files, before anything is trained."""

    num_skipped: int = 0
    """Images that are not used, as `data.on_error: skip` has it."""
    skipped: tuple[str, ...] = ()
    """Some of them, each with its reason."""
    notes: tuple[str, ...] = ()
    """Sentences on what else was found."""
    widths: tuple[int, int] | None = None
    """Smallest and largest width in pixels; None where all images are of one size."""
    heights: tuple[int, int] | None = None
    """Smallest and largest height in pixels."""
    num_measured: int = 0
    """Images whose headers say so."""
    num_test: int = 0
    """Test images, none of them read."""
