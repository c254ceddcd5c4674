"""The driver of a run: whether one lives, what it is to do, since when."""

import fcntl
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, Field

from castling.config import Config
from castling.config.limits import MOST_TRIALS
from castling.errors import ConfigError
from castling.files import write_text
from reports.records import DRIVER_FILE, LOCK_FILE


MOST_BYTES = 10_000
"""Largest file of a driver that is read."""


class Driver(Config):
    """The last driver of a run, as it describes itself in RUN/driver.json."""

    trials: int = Field(ge=1, le=MOST_TRIALS)
    """How many trials are to be trained, those of earlier drivers included."""
    started_at: AwareDatetime
    """When it began to train."""
    host: str
    pid: int
    has_finished: bool = False
    """Whether it trained all of them, or all that the space has within the budget."""

    @classmethod
    def here(cls, trials: int) -> "Driver":
        """Describe this process."""
        now = datetime.now(UTC)
        return cls(trials=trials, started_at=now, host=platform.node(), pid=os.getpid())

    def write(self, run: Path) -> None:
        """Write RUN/driver.json atomically."""
        write_text(run / DRIVER_FILE, json.dumps(self.to_data(), indent=1) + "\n")


def read_driver(run: Path) -> Driver | None:
    """Return the last driver of a run; None where its file is missing or malformed."""
    try:
        with (run / DRIVER_FILE).open("rb") as file:
            return Driver.from_data(json.loads(file.read(MOST_BYTES)))
    except (OSError, ConfigError, ValueError, RecursionError):
        return None


def is_live(run: Path) -> bool:
    """Return whether a driver holds the run's lock, which ends with its process however it ends.

    The lock is only looked at: a shared lock is taken for an instant.
    """
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDONLY)
    except OSError:  # there is none
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks: no driver could hold one
        return False
    finally:
        os.close(descriptor)
    return False
