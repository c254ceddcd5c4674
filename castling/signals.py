"""The signals by which users and batch systems end a command."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Sent by Ctrl-C, batch systems and closed terminals, often to all processes of a job."""

Handler = Callable[[int, FrameType | None], Any]


def handle(handler: Handler) -> dict[int, Any]:
    """Set the handler of all signals but those that are ignored, as SIGHUP is under `nohup`.

    Returns:
        the earlier handlers by signal, for `restore`.

    Raises:
        ValueError: outside of the main thread.
    """
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def restore(earlier: dict[int, Any]) -> None:
    """Set handlers that `handle` has returned."""
    for number, handler in earlier.items():
        signal.signal(number, handler)


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Set the handler of all signals that are not ignored for a with-block."""
    earlier = handle(handler)
    try:
        yield
    finally:
        restore(earlier)


def ignore(_: int = 0) -> None:
    """Ignore the signals in this process, which another one ends; a `worker_init_fn` of torch."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
