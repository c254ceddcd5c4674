"""What does the masked branch keep for the backward pass on a GPU? Counted, without a GPU.

    python benchmarks/memory.py [--tokens 4096] [--batch 8] [--layers 12]

Layers of width 192 with 3 heads run forward on tensors without values (FakeTensor, device cuda,
CUDA's autocast rules, bfloat16). Counted are the bytes of every storage that autograd saves, once
each, without parameters, and of every tensor that a checkpoint keeps to run again. What a
checkpoint computes again is freed after the forward pass, and is not counted.
"""

import argparse
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from attention import WIDTH, Goal, block, constant_branch
from rich.console import Console
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import flex_attention
from torch.utils._pytree import tree_leaves

from castling.kernels import flex, paths
from castling.kernels.paths import BranchPath, LayerPath


def saved_bytes(goal: Goal, layers: int, *, layer: LayerPath, branch: BranchPath | None) -> int:
    """Return the bytes that layers keep between forward and backward pass.

    Args:
        goal: tokens and batch.
        layers: how many, one after the other.
        layer: how a layer is computed.
        branch: how its masked branch is computed; None has none.
    """
    mask = None if branch is None else constant_branch(goal)
    kept: dict[int, int] = {}
    with FakeTensorMode(), uncompiled(), paths.forced(layer=layer, branch=branch, rms=True):
        with torch.device("cuda"):
            stack = nn.Sequential(*(block("linear_angular", goal, mask) for _ in range(layers)))
            x = torch.empty(goal.batch, goal.tokens, WIDTH, requires_grad=True)
        parameters = {_storage(p) for p in stack.parameters()}
        held: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in parameters:
                held.append(tensor)
                kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        again = flex.again

        def keep_all(run: Callable[..., object], *arguments: object) -> object:
            for leaf in tree_leaves(arguments):
                if isinstance(leaf, Tensor):
                    keep(leaf)
            return again(run, *arguments)

        with (
            patch.object(flex, "again", keep_all),
            cuda_autocast(),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            stack(x)
    return sum(kept.values())


higher_order = importlib.import_module("torch._higher_order_ops.flex_attention")


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Cast to bfloat16 by CUDA's rules; torch.autocast refuses to on a machine without CUDA."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)  # noqa: FBT003
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()


def _storage(tensor: Tensor) -> int:
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Take FlexAttention as it is, for its shapes; its gradient is not traced, which asks CUDA."""
    with (
        patch.object(flex, "compiled_passes", lambda: flex.passes),
        patch.object(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", new=True),
        patch.object(higher_order, "create_fw_bw_graph", lambda graph, *_: (graph, None)),
    ):
        yield


def main() -> None:
    """Print what each path keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096, help="a square number")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    arguments = parser.parse_args()
    side = math.isqrt(arguments.tokens)
    goal = Goal(height=side, width=side, batch=arguments.batch, softmax=0.0, released=0.0)
    console = Console()
    for layer in ("torch", "triton"):
        plain = saved_bytes(goal, arguments.layers, layer=layer, branch=None)
        console.print(f"{layer}, no branch: {plain / 2**20:,.0f} MiB")
        for branch in ("flex", "chunks", "maps"):
            kept = saved_bytes(goal, arguments.layers, layer=layer, branch=branch)
            console.print(f"{layer}, {branch}: {kept / 2**20:,.0f} MiB, {kept / plain:.2f} times")


if __name__ == "__main__":
    main()
