"""Keeps the output of a trial in the run folder, with the traceback if it fails."""

import faulthandler
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, cast


MOST_BYTES = 256 * 1024
"""The last output of a trial that is kept; a file is at most twice as large."""
STDERR = 2
"""The descriptor that Ray writes to a worker's log."""


class TrialLog:
    """A file that output is appended to, of which only the end is kept.

    Args:
        path: of the file; a trial that goes on appends to what it printed before.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+", buffering=0)

    def write(self, text: str) -> None:
        """Append a text; the oldest output goes when there is too much."""
        content = text.encode(errors="backslashreplace")[-MOST_BYTES:]
        if self._file.seek(0, os.SEEK_END) + len(content) > 2 * MOST_BYTES:
            self._file.seek(-MOST_BYTES, os.SEEK_END)
            end = self._file.read().partition(b"\n")[2]
            self._file.truncate(0)
            self._file.write(end)
        self._file.write(content)

    def fileno(self) -> int:
        """Return the descriptor, which appends."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Copied:
    """A stream whose text goes to a log too."""

    def __init__(self, stream: IO[str], log: TrialLog) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def output_kept(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Copy what is printed within a with-block to a file, and the traceback of what is raised.

    A crash of the process writes the stacks of its threads to the file. So does a block that takes
    too long, which ends the process, wherever it hangs.

    Args:
        path: of the file; whoever records the trial removes it if the trial did not fail.
        seconds: how long the block may take; None for ever.
    """
    log = TrialLog(path)
    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(file=log.fileno())
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=log.fileno())
    try:
        with _copied(log):
            yield
    except Exception:
        log.write(traceback.format_exc())
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        if was_enabled:
            faulthandler.enable(file=STDERR)
        else:
            faulthandler.disable()
        log.close()


@contextmanager
def _copied(log: TrialLog) -> Iterator[None]:
    streams = [cast("IO[str]", _Copied(stream, log)) for stream in (sys.stdout, sys.stderr)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        yield
