"""Latency of a model as a sum over its parts, each timed once on this machine and stored."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from castling.config import Architecture
from castling.files import append_line
from castling.model.architecture import architecture_of
from castling.model.check import canonical
from castling.model.pieces import Part, Piece, Pieces
from castling.untrusted.bounds import bounded
from castling.untrusted.memory import check_fits


RUNS, SECONDS = 30, 0.1
"""Number of timed calls per part, and the seconds after which timing ends earlier."""
FEWEST_RUNS = 8
"""Minimum number of timed calls."""
REFERENCE, REFERENCE_SIZE = "yardstick", 192
"""The reference part, which shows how fast the machine is at the moment: a square matmul. Its name
in files is that of version 0.1."""


class LatencyTable:
    """Milliseconds of one image, summed over a model's parts.

    A part is an operator or an MLP with its shape, the rest of a block, or the rest of the model.
    Each is timed once, alone, in eval mode, on the GPU or on one core; a file keeps the times.
    Other work slows the machine for a while, so a part is timed in turns with a reference matmul,
    and the ratio counts.

    Args:
        path: file of a JSON object per line; None stores the times in memory.

    Raises:
        RecordError: when the file is larger than memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._times: dict[str, float] = {}
        if path is not None:
            check_fits(path)
        for line in path.read_text().splitlines() if path and path.is_file() else ():
            with suppress(
                ValueError, LookupError, TypeError, RecursionError
            ):  # unfinished, or no line
                entry = json.loads(line)
                self._times[entry["part"]] = float(entry["ms"])

    def __len__(self) -> int:
        return len(self._times)

    def __call__(self, model: Architecture) -> float:
        """Return the milliseconds of one image."""
        parts = architecture_of(canonical(model.castled())).parts()
        return sum((self._time(part) for part in parts), 0.0)

    def keep_in(self, path: Path) -> None:
        """Store all times, earlier and later ones, in a file."""
        if path == self._path:
            return
        self._path = path
        for name, milliseconds in self._times.items():
            self._write(name, milliseconds)

    def _time(self, part: Part) -> float:
        """Return the milliseconds of a part, timed now unless that was done before."""
        if part.name not in self._times:
            with _on_one_core(), torch.random.fork_rng(devices=[]), bounded("model"):
                reference = self._reference()
                for name, length in _lengths(part.take_apart(_device())).items():
                    self._remember(name, length * reference)
        return self._times[part.name]

    def _reference(self) -> float:
        """Return the milliseconds of the reference matmul at the start of the table."""
        if REFERENCE not in self._times:
            self._remember(REFERENCE, _quartile(_timed(_ReferenceMatmul()) for _ in range(RUNS)))
        return self._times[REFERENCE]

    def _remember(self, part: str, milliseconds: float) -> None:
        if part not in self._times:
            self._times[part] = milliseconds
            self._write(part, milliseconds)

    def _write(self, part: str, milliseconds: float) -> None:
        if self._path is not None:
            append_line(self._path, json.dumps({"part": part, "ms": milliseconds}))


def _lengths(apart: Pieces) -> dict[str, float]:
    """Return the times of pieces by name, relative to the reference, timing equal ones once."""
    times, alike = dict[str, float](), dict[str, float]()
    total = 0.0
    for piece in apart.pieces:
        signature = _signature(piece)
        if signature not in alike:
            alike[signature] = _length(piece)
        total += alike[signature]
        if piece.name is not None:
            times[piece.name] = alike[signature]
    if apart.whole is not None and apart.whole.name is not None:
        times[apart.whole.name] = max(0.0, _length(apart.whole) - total)
    return times


def _signature(piece: Piece) -> str:
    """Return a signature that pieces of equal duration share: kinds and shapes."""

    def described(value: Any) -> Any:
        return tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value)

    kinds = [type(part).__name__ for part in piece.module.modules()]
    shapes = [tuple(tensor.shape) for tensor in piece.module.state_dict().values()]
    named = [(name, described(value)) for name, value in piece.named.items()]
    return repr((kinds, shapes, [*map(described, piece.arguments), *named]))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _ReferenceMatmul(nn.Module):
    """A product of matrices, a tenth of a millisecond or so."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.full((REFERENCE_SIZE, REFERENCE_SIZE), 0.5, device=_device())

    def forward(self) -> torch.Tensor:
        return self.matrix @ self.matrix


def _length(piece: Piece) -> float:
    """Return the time of a piece in eval mode relative to the reference, after two warm-up calls.

    The lower quartiles of both count: other work on the machine makes a call slower, never faster.
    """
    module = piece.module
    module.eval()
    reference, begun = _ReferenceMatmul(), time.perf_counter()
    times, paces = list[float](), list[float]()
    for run in range(-2, RUNS):
        pace, spent = _timed(reference), _timed(module, *piece.arguments, **piece.named)
        if run >= 0:
            paces.append(pace)
            times.append(spent)
            if time.perf_counter() - begun > SECONDS and len(times) >= FEWEST_RUNS:
                break
    return _quartile(times) / _quartile(paces)


@torch.inference_mode()
def _timed(module: nn.Module, *arguments: Any, **named: Any) -> float:
    """Return the wall-clock milliseconds of a call."""
    started = time.perf_counter()
    module(*arguments, **named)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def _quartile(times: Iterable[float]) -> float:
    """Return the lower quartile."""
    ordered = sorted(times)
    return ordered[len(ordered) // 4]


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Let torch compute on one thread, as it is least disturbed and easiest to compare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
