"""The manifest of a run folder, RUN/config.yaml: the search, its space, versions of libraries."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from castling.config import Config, Preprocessing
from castling.errors import ConfigError, RunFolderError
from castling.files import write_yaml
from castling.untrusted.plain_yaml import read_yaml
from reports.records import MANIFEST_FILE, Objective, check_contained, check_recorded
from space.budget import Budget
from space.point import Space


NEWEST_LAYOUT = 2
"""The layout of run folders that this version writes; it reads all earlier ones."""


class Manifest(Config):
    """The description of a run, written once at its start to RUN/config.yaml."""

    castling_run: Literal[1, 2] = 2
    """Version of the run folder's layout; its presence marks a run folder."""
    recipe: dict[str, Any]
    """The resolved search config, every default written out."""
    space: dict[str, Any] | None = None
    """The whole space, every default and choice written out; None in version 1, where the recipe
    defines it."""
    space_fingerprint: str | None = None
    """Of version 1: a hash of the space."""
    budget: Budget
    objectives: tuple[Objective, ...]
    """The objectives of the front."""
    reference: dict[str, float]
    """Reference point of the hypervolume, per objective; fixed for the life of the run."""
    storage: str | None = None
    """Optuna storage URL, without password; null is study.journal in the run folder."""
    versions: dict[str, str]
    """Versions of castling-nas and of the libraries that decide results."""
    git_commit: str | None = None
    """Commit of the working directory, where there is one."""
    created_at: datetime
    preprocessing: Preprocessing | None = None
    """How images are prepared in all trials, and their classes; None in runs of castling 0.1."""
    images: dict[str, str] = Field(default_factory=dict)
    """Number and hash of the training and validation images, by which a resumed search and an
    export see that they changed."""

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        metrics = [goal.metric for goal in self.objectives]
        if not metrics or len(set(metrics)) < len(metrics):
            rule = "must name at least one metric, and none twice"
            raise ConfigError("objectives", rule, metrics)
        for metric in metrics:
            check_recorded(metric)
        return self

    @model_validator(mode="after")
    def _one_space(self) -> Self:
        if self.space is None and self.space_fingerprint is None:
            raise ConfigError("space", "is required")
        return self

    def read_space(self, run: Path) -> Space | None:
        """Return the space that the manifest holds, or None where it is of version 1.

        Raises:
            RunFolderError: when this version of castling cannot read it.
        """
        if self.space is None:
            return None
        try:
            return Space.from_data(self.space)
        except ConfigError as error:
            writer = self.versions.get("castling-nas", "another version")
            reason = ConfigError(error.field, error.rule, error.value)  # its remedy is another
            rule = f"has a space that this version of castling cannot read ({reason})"
            fix = f"resume it with castling-nas {writer}, which began it"
            raise RunFolderError(str(run), rule, fix) from None

    def write(self, run: Path) -> None:
        """Write RUN/config.yaml atomically."""
        write_yaml(
            run / MANIFEST_FILE,
            self.to_data(),
            "A castling run: what was searched, and with what.",
        )

    @classmethod
    def read(cls, run: Path) -> Self:
        """Return a run folder's manifest.

        Raises:
            RunFolderError: when the folder is missing or not a castling run.
        """
        if not run.is_dir():
            raise RunFolderError(
                str(run),
                "must be a run folder, found none",
                "check the path; `castling search` makes one",
            )
        check_contained(run)
        path = run / MANIFEST_FILE
        try:
            data = read_yaml(path) if path.is_file() else None
            if isinstance(data, dict) and "castling_run" in data:
                _check_layout(run, data)
                return cls.from_data(data, str(path))
        except ConfigError as error:
            rule = f"has an unreadable {MANIFEST_FILE} ({error})"
            raise RunFolderError(str(run), rule, "restore it from a copy") from None
        rule = f"is not a castling run (no {MANIFEST_FILE} of one)"
        raise RunFolderError(str(run), rule, "give the --out of a search")


def _check_layout(run: Path, data: dict[str, Any]) -> None:
    """Raise RunFolderError where a newer version of castling wrote the run."""
    layout = data["castling_run"]
    if type(layout) is int and layout > NEWEST_LAYOUT:
        versions = data.get("versions")
        writer = versions.get("castling-nas") if isinstance(versions, dict) else None
        rule = f"was written by a newer version of castling (layout {layout}, not {NEWEST_LAYOUT})"
        fix = f"install castling-nas {writer or ''}".strip() + " or newer to read it"
        raise RunFolderError(str(run), rule, fix)
