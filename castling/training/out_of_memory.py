"""Errors that say that memory ran out, and the training that needs less of it."""

import torch

from castling.config import RunConfig


NO_MEMORY = ("DefaultCPUAllocator: can't allocate", "DefaultCPUAllocator: not enough memory")
"""Messages of torch on a CPU without free memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a GPU or the machine ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)


def with_less_memory(run: RunConfig) -> RunConfig | None:
    """Return the same training with each batch in twice as many parts; None at an image each."""
    parts = 2 * run.train.accumulation
    if parts > run.train.batch_size:
        return None
    return run.replace(train=run.train.replace(accumulation=parts))
