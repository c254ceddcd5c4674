"""torch.compile of a training model, without a silent return to eager execution."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from castling.operators.modules.auxiliary import branches
from castling.operators.modules.gates import gated


BACKEND = "inductor"
"""Of torch.compile."""
KINDS_OF_CALLS = 8
"""Compilations of one code beside those of masks: modes, gradients, sizes of batches."""


def compile_parts(model: nn.Module, what: str) -> None:
    """Compile a model in place, or each of its blocks: no name of a weight changes.

    Copies of it, such as the castled model of a validation, are not compiled.

    Args:
        model: the training model.
        what: `off`, `blocks` or `model`, as `train.compile`.
    """
    parts = {"off": [], "blocks": _blocks(model), "model": [model]}[what]
    for part in parts:
        part.compile(backend=BACKEND)


@contextmanager
def recompilations(model: nn.Module, what: str) -> Iterator[None]:
    """Allow as many compilations as masks that empty ask for; more are an error, never eager.

    Each mask that empties changes the code of its layer, and all blocks share their code.
    """
    if what == "off":
        yield
        return
    events = 2 * (len(branches(model)) + len(gated(model)) + len(_blocks(model)))
    limit = KINDS_OF_CALLS * (1 + events)
    with torch._dynamo.config.patch(  # noqa: SLF001 - torch documents its config by this name
        recompile_limit=limit,
        accumulated_recompile_limit=max(256, limit * (1 + events)),
        fail_on_recompile_limit_hit=True,
    ):
        yield


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the largest repeated parts of a model: the entries of its outermost lists.

    A list is a ModuleList or Sequential of parts that have weights and parts themselves. Stages,
    which hold such a list, are opened.
    """
    found: list[nn.Module] = []
    for child in model.children():
        entries = (
            list(child.children()) if isinstance(child, nn.ModuleList | nn.Sequential) else []
        )
        for entry in entries:
            inner = _blocks(entry)
            found += inner or ([entry] if _is_block(entry) else [])
        if not entries:
            found += _blocks(child)
    return found


def _is_block(module: nn.Module) -> bool:
    """Return whether two or more parts with weights have parts: an attention and an MLP."""
    composites = [part for part in module.children() if any(True for _ in part.children())]
    return sum(any(True for _ in part.parameters()) for part in composites) >= 2
