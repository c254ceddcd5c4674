"""Is fewer MACs less time? Attention blocks side by side, in inference and in training.

    python benchmarks/attention.py [--operators] [--seconds 2] [--device cuda]

A block is projections and core, width 192 and 3 heads, castling's with nine taps per head. One
thread, medians of interleaved calls, two blocks at a time: every ratio is of one run. Eager and
compiled are timed, and the better of the two stands for each side; the released block is judged
as it was released, eager, and compiled beside it. `projections` are the two linear layers alone,
the limit of every block here; MB are the bytes that the eager operations read and write.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from measuring import bytes_moved, compiled, medians, peak_bytes
from released import ReleasedBlock
from rich.console import Console
from rich.table import Table
from timm.layers import Attention
from torch import Tensor, nn

from castling.config import BlockConfig, MaskSchedule
from castling.operators import OPERATORS
from castling.operators.spec import LayerShape, TokenGrid


WIDTH, HEADS = 192, 3
THRESHOLD = 0.02
"""Of the masked branch, constant, as released."""
SHARPENED = 8.0
"""Times the logits of new weights: attention that has learnt what to look at."""

console = Console(width=170)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A shape, and how many times as fast the castling block is to be."""

    height: int
    width: int
    batch: int
    softmax: float
    released: float

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.height * self.width


INFERENCE = (
    Goal(height=7, width=7, batch=64, softmax=0.9, released=2.0),
    Goal(height=14, width=14, batch=16, softmax=1.1, released=2.0),
    Goal(height=32, width=32, batch=4, softmax=3.0, released=2.2),
    Goal(height=64, width=64, batch=1, softmax=10.0, released=2.4),
)
TRAINING = (
    Goal(height=14, width=14, batch=16, softmax=1 / 1.2, released=2.0),
    Goal(height=20, width=20, batch=8, softmax=1.0, released=2.0),
    Goal(height=32, width=32, batch=4, softmax=1.0, released=2.0),
)


def layer_shape(operator: str, goal: Goal, mask: MaskSchedule | None = None) -> LayerShape:
    """Return what an operator of the registry is built for and priced at."""
    config = BlockConfig(
        operator=operator,
        num_heads=HEADS,
        head_size=WIDTH // HEADS,
        conv_kernel=9,
        conv_form="tokens",
        conv_filters="head",
        mask=mask,
    )
    grid = TokenGrid(height=goal.height, width=goal.width)
    return LayerShape(block=config, embed_width=WIDTH, grid=grid)


def block(operator: str, goal: Goal, mask: MaskSchedule | None = None) -> nn.Module:
    """Return an operator of the registry at a shape, projections and all."""
    return OPERATORS[operator].build(layer_shape(operator, goal, mask))


def constant_branch(goal: Goal) -> MaskSchedule:
    """Return a schedule that stays at the released threshold."""
    multiple = THRESHOLD * goal.tokens
    return MaskSchedule(shape="constant", start_multiple=multiple)


class Projections(nn.Module):
    """The two linear layers that every block has."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Project, and project a third of that."""
        return self.proj(self.qkv(x)[..., :WIDTH])


class Bench:
    """Blocks timed on one device."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.device = seconds, device

    def input(self, goal: Goal, *, grad: bool) -> Tensor:
        """Return tokens (batch, token, channel)."""
        shape = (goal.batch, goal.tokens, WIDTH)
        return torch.randn(shape, device=self.device, requires_grad=grad)

    def pair(self, ours: nn.Module, other: nn.Module, x: Tensor) -> list[float]:
        """Return milliseconds: ours eager and compiled, the other's eager and compiled."""
        modules = [module.to(self.device) for module in (ours, other)]
        torch.compiler.reset()
        calls = {
            f"{index} {name}": self.call(make(module), x)
            for index, module in enumerate(modules)
            for name, make in (("eager", lambda module: module), ("compiled", compiled))
        }
        return list(medians(calls, seconds=self.seconds, device=self.device).values())

    def call(self, module: nn.Module, x: Tensor) -> Callable[[], object]:
        """Return a forward pass, or a training step where the input wants a gradient."""
        if not x.requires_grad:
            return lambda: module(x)
        parameters = [*module.parameters(), x]

        def step() -> None:
            for parameter in parameters:
                parameter.grad = None
            module(x).square().mean().backward()

        return step

    def inference(self) -> None:
        """Print the blocks in inference."""
        table = _table(
            "inference",
            "softmax ms,castling ms,projections,speed (asked),limit,"
            "released ms,speed (asked),to compiled,MB castling,MB released",
        )
        with torch.inference_mode():
            for goal in INFERENCE:
                x = self.input(goal, grad=False)
                ours = block("linear_angular", goal).eval()
                released = ReleasedBlock(WIDTH, HEADS, branch=False).eval()
                times = self.pair(ours, Attention(WIDTH, HEADS, qkv_bias=True).eval(), x)
                against = self.pair(ours, released, x)
                floor = self.alone(Projections().eval(), x)
                softmax, best = min(times[2:]), min(times[:2])
                table.add_row(
                    f"{goal.tokens} x {goal.batch}",
                    _both(times[2:]),
                    _both(times[:2]),
                    f"{floor:.1f}",
                    _ratio(softmax / best, goal.softmax),
                    f"{softmax / floor:.2f}",
                    _both(against[2:]),
                    _ratio(against[2] / min(against[:2]), goal.released),
                    f"{min(against[2:]) / min(against[:2]):.2f}",
                    f"{self.kernel_megabytes(x):.0f}",
                    f"{bytes_moved(lambda m=released, x=x: m(x)) / 1e6:.0f}",
                )
        console.print(table)

    def kernel_megabytes(self, x: Tensor) -> float:
        """Return what the projections move, and a kernel that reads q, k and v and writes once."""
        projections = Projections().eval().to(self.device)
        return (bytes_moved(lambda: projections(x)) + 4 * x.numel() * x.element_size()) / 1e6

    def alone(self, module: nn.Module, x: Tensor) -> float:
        """Return the milliseconds of a module, eager."""
        call = self.call(module.to(self.device), x)
        return medians({"": call}, seconds=self.seconds, device=self.device)[""]

    def training(self) -> None:
        """Print the training step once the branch is empty."""
        table = _table(
            "training step: forward and backward",
            "softmax ms,castling without branch,speed (asked),projections",
        )
        for goal in TRAINING:
            x = self.input(goal, grad=True)
            plain = block("linear_angular", goal)
            times = self.pair(plain, Attention(WIDTH, HEADS, qkv_bias=True), x)
            table.add_row(
                f"{goal.tokens} x {goal.batch}",
                _both(times[2:]),
                _both(times[:2]),
                _ratio(min(times[2:]) / min(times[:2]), goal.softmax),
                f"{self.alone(Projections(), x):.1f}",
            )
        console.print(table)

    def branch(self) -> None:
        """Print the training step with the branch, of weights as made and of sharper ones."""
        table = _table(
            "training step with the masked branch: forward and backward",
            "queries with survivors,released,castling,speed (asked),to compiled,"
            "peak MB,released's",
        )
        for goal, gain in product(TRAINING, (1.0, SHARPENED)):
            x = self.input(goal, grad=True)
            ours = block("linear_angular", goal, constant_branch(goal)).train()
            released = ReleasedBlock(WIDTH, HEADS, branch=True)
            with torch.no_grad():
                released.qkv.weight[: 2 * WIDTH] *= gain**0.5
                ours.get_submodule("qkv").load_state_dict(released.qkv.state_dict())
            times = self.pair(ours, released, x)
            peaks = [
                peak_bytes(self.call(module, x), self.device) / 1e6 for module in (ours, released)
            ]
            table.add_row(
                f"{goal.tokens} x {goal.batch}",
                f"{self.queries_with_survivors(released, x):.0%}",
                _both(times[2:]),
                _both(times[:2]),
                _ratio(times[2] / min(times[:2]), goal.released),
                f"{min(times[2:]) / min(times[:2]):.2f}",
                *(f"{peak:.0f}" for peak in peaks),
            )
        console.print(table)

    def queries_with_survivors(self, released: ReleasedBlock, x: Tensor) -> float:
        """Return the fraction of queries that attend to some key above the threshold."""
        q, k, _ = released.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).softmax(dim=-1)
        return float((attention > THRESHOLD).any(-1).float().mean())

    def operators(self) -> None:
        """Print every operator of the registry against softmax, in inference."""
        table = _table(
            "every operator against softmax attention, in inference",
            ",".join(f"{goal.tokens} x {goal.batch}: ms; speed; MACs" for goal in INFERENCE[:3]),
        )
        for name in OPERATORS:
            table.add_row(name, *(self.operator(name, goal) for goal in INFERENCE[:3]))
        console.print(table)

    def operator(self, name: str, goal: Goal) -> str:
        """Return an operator's time, speed and share of softmax attention's MACs at a shape."""
        objection = OPERATORS[name].check(layer_shape(name, goal))
        if objection:
            return "does not serve"
        module = block(name, goal).eval().to(self.device)
        x = self.input(goal, grad=False)
        softmax = block("softmax", goal).eval().to(self.device)
        with torch.inference_mode():
            calls = {"ours": self.call(module, x), "softmax": self.call(softmax, x)}
            times = medians(calls, seconds=self.seconds, device=self.device)
        macs, stock = (OPERATORS[it].macs(layer_shape(it, goal)) for it in (name, "softmax"))
        speed = times["softmax"] / times["ours"]
        return f"{times['ours']:.1f} ms; {speed:.2f}x; {macs / stock:.0%}"


def _table(title: str, columns: str) -> Table:
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    table.add_column("tokens x batch")
    for column in columns.split(","):
        table.add_column(column, justify="right")
    return table


def _both(times: Sequence[float]) -> str:
    """Return eager and compiled milliseconds."""
    return " / ".join(f"{time:.1f}" for time in times)


def _ratio(reached: float, asked: float) -> str:
    return f"{reached:.2f} ({asked:.2g}){'' if reached >= asked else ' no'}"


def main() -> None:
    """Time what was asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", action="store_true", help="every operator of the registry")
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each function")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bench = Bench(arguments.seconds, arguments.device)
    if arguments.operators:
        bench.operators()
        return
    bench.inference()
    bench.training()
    bench.branch()


if __name__ == "__main__":
    main()
