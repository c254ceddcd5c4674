"""Latency of a model as a sum over its parts, each timed once on this machine and remembered."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from castling.config import (
    OPERATOR_FIELDS,
    Architecture,
    BackboneConfig,
    BlockConfig,
    LayerChoice,
    ModelConfig,
    StockBackbone,
)
from castling.files import append_line
from castling.memory import check_fits
from castling.model.build import build
from castling.model.castle import castle
from castling.model.hosts.anatomy import anatomy_of
from castling.model.vit import Block
from castling.operators.spec import LayerShape, layer_shapes


T = TypeVar("T")

RUNS, SECONDS = 30, 0.1
"""A part is timed so often, or for so long if that ends earlier."""
FEWEST_RUNS = 8
"""But at least so often."""
YARDSTICK, YARDSTICK_SIZE = "yardstick", 192
"""The part that tells how fast the machine is at the moment: a product of square matrices."""
PERIOD = 2
"""After how many layers an operator repeats that depends on its place: Swin shifts every other."""

OPERATOR_PART = OPERATOR_FIELDS | {"operator", "options"}
MLP_PART = frozenset({"mlp", "mlp_ratio"})
UNTIMED = frozenset({"drop_path"})
"""Fields of a block by the only part that they change; a rate of training costs no time."""

Measure: TypeAlias = Callable[[], Mapping[str, float]]
"""Times a part, perhaps with others at once: yardsticks by the parts' names."""
Parts: TypeAlias = Iterator[tuple[str, Measure]]


class LatencyTable:
    """Milliseconds of one image, summed over a model's parts.

    A part is an operator or an MLP at its shape, what remains of a block, and what remains of the
    model. Each is timed once, alone, in eval mode, on the GPU or on one core; a file keeps the
    times. Other work slows the machine for a while, so that a part is timed in turns with a
    yardstick, and the ratio counts.

    Args:
        path: file of a JSON object per line; None remembers for the length of the process.

    Raises:
        RecordError: when the file is larger than memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._times: dict[str, float] = {}
        if path is not None:
            check_fits(path)
        for line in path.read_text().splitlines() if path and path.is_file() else ():
            with suppress(ValueError, LookupError, TypeError, RecursionError):  # torn, or no line
                entry = json.loads(line)
                self._times[entry["part"]] = float(entry["ms"])

    def __len__(self) -> int:
        return len(self._times)

    def __call__(self, model: Architecture) -> float:
        """Return the milliseconds of one image."""
        if isinstance(model, BackboneConfig):
            parts = _backbone_parts(model.castled())
        else:
            parts = _vit_parts(model.castled())
        return sum((self._time(part, measure) for part, measure in parts), 0.0)

    def keep_in(self, path: Path) -> None:
        """Keep what was timed so far, and what will be, in a file."""
        if path == self._path:
            return
        self._path = path
        for name, milliseconds in self._times.items():
            self._write(name, milliseconds)

    def _time(self, part: str, measure: Measure) -> float:
        """Return the milliseconds of a part, timed now unless that was done before."""
        if part not in self._times:
            with _on_one_core():
                yardstick = self._yardstick()
                for name, length in measure().items():
                    self._remember(name, length * yardstick)
        return self._times[part]

    def _yardstick(self) -> float:
        """Return the milliseconds of the yardstick when the table was begun."""
        if YARDSTICK not in self._times:
            self._remember(YARDSTICK, _quartile(_timed(_Yardstick()) for _ in range(RUNS)))
        return self._times[YARDSTICK]

    def _remember(self, part: str, milliseconds: float) -> None:
        if part not in self._times:
            self._times[part] = milliseconds
            self._write(part, milliseconds)

    def _write(self, part: str, milliseconds: float) -> None:
        if self._path is not None:
            append_line(self._path, json.dumps({"part": part, "ms": milliseconds}))


def _vit_parts(model: ModelConfig) -> Parts:
    canonical = model.canonical()
    alone = model.replace(blocks=model.blocks[:1])
    stem = _named("stem", alone.replace(blocks=(BlockConfig(mask=None),)).to_data())
    yield stem, partial(_alone, stem, _time_stem, alone)
    for shape in layer_shapes(canonical):
        for name, part in block_parts(shape).items():
            yield name, partial(_alone, name, _time_part, (part, shape))


def block_parts(shape: LayerShape) -> dict[str, Callable[[], nn.Module]]:
    """Return what makes the three parts of a castled block that are timed, by their names.

    A name holds every field that changes the part: of a field that is not known to belong to one
    part alone, each name has it, unless it stands at its default.
    """
    block, fields = shape.block.to_data(), type(shape.block).model_fields
    others = {
        name: block[name]
        for name in block.keys() - OPERATOR_PART - MLP_PART - UNTIMED
        if getattr(shape.block, name) != fields[name].get_default(call_default_factory=True)
    }
    place = {"width": shape.embed_width, "grid": repr(shape.grid), "bias": shape.qkv_bias}
    chosen = {name: block[name] for name in OPERATOR_PART}
    mlp = {"mlp": block["mlp"], "ratio": block["mlp_ratio"]}
    operator = _named("operator", {**place, "turn": shape.index % PERIOD, **chosen, **others})
    return {
        operator: partial(_part, shape, "attn"),
        _named("mlp", {**place, **mlp, **others}): partial(_part, shape, "mlp"),
        _named("block", {**place, **others}): partial(_rest, shape),
    }


def _alone(name: str, measure: Callable[[T], float], what: T) -> dict[str, float]:
    return {name: measure(what)}


def _named(kind: str, data: Mapping[str, Any]) -> str:
    return f"{kind} {json.dumps(data, sort_keys=True)}"


def _block(shape: LayerShape) -> nn.Module:
    block = replace(shape, block=shape.block.replace(mask=None, drop_path=0.0))
    return castle(Block(block).to(_device()))


def _tokens(shape: LayerShape) -> torch.Tensor:
    return torch.zeros(1, shape.grid.num_tokens, shape.embed_width, device=_device())


def _part(shape: LayerShape, name: str) -> nn.Module:
    return _block(shape).get_submodule(name)


def _rest(shape: LayerShape) -> nn.Module:
    block = _block(shape)
    block.attn, block.mlp = nn.Identity(), nn.Identity()
    return block


def _time_part(timed: tuple[Callable[[], nn.Module], LayerShape]) -> float:
    part, shape = timed
    return _length(part(), _tokens(shape))


def _time_stem(model: ModelConfig) -> float:
    built = castle(build(model, seed=0).to(_device()))
    built.blocks = nn.ModuleList()
    return _length(built, _image(model))


def _backbone_parts(model: BackboneConfig) -> Parts:
    canonical = model.canonical()
    stock = StockBackbone(**{name: getattr(model, name) for name in StockBackbone.model_fields})
    data = stock.to_data()
    stem = _named("stem", data)
    softmax = LayerChoice(operator="softmax", mask=None).canonical()
    yield stem, partial(_time_backbone, stock, softmax)
    for index, choice in enumerate(canonical.blocks):
        yield _layer_name(data, index, choice), partial(_time_backbone, stock, choice)


def _layer_name(backbone: Mapping[str, Any], index: int, choice: LayerChoice) -> str:
    return _named("layer", {**backbone, "layer": index, "choice": choice.to_data()})


def _time_backbone(stock: StockBackbone, choice: LayerChoice) -> dict[str, float]:
    """Return the times of a choice in every layer that can take it, and of all the rest."""
    layers = anatomy_of(stock).layers
    stays = LayerChoice(operator="softmax", mask=None)
    takes = [not layer.objection(choice) for layer in layers]
    blocks = tuple(choice if taken else stays for taken in takes)
    config = BackboneConfig(**dict(stock), blocks=blocks)
    model = castle(build(config, seed=0).to(_device()))
    image, data = _image(config), stock.to_data()
    calls = _calls(model, [layer.name for layer in layers], image)
    found, total, lengths = {}, 0.0, dict[str, float]()
    for index, layer in enumerate(layers):
        module, (arguments, named) = model.get_submodule(layer.name), calls[layer.name]
        alike = _signature(module, arguments, named)
        if alike not in lengths:
            lengths[alike] = _length(module, *arguments, **named)
        total += lengths[alike]
        if takes[index]:
            found[_layer_name(data, index, choice)] = lengths[alike]
    stem = _named("stem", data)
    return {**found, stem: max(0.0, _length(model, image) - total)}


def _signature(module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """Return what modules that take equally long have in common: kinds and shapes."""

    def described(value: Any) -> Any:
        return tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value)

    kinds = [type(part).__name__ for part in module.modules()]
    shapes = [tuple(tensor.shape) for tensor in module.state_dict().values()]
    given = [*map(described, arguments), *((name, described(named[name])) for name in named)]
    return repr((kinds, shapes, given))


def _calls(
    model: nn.Module, names: list[str], image: torch.Tensor
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return what each of a model's modules is called with."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls[name] = (arguments, named)

        return hook

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(keep(name), with_kwargs=True)
        for name in names
    ]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return calls


def _image(model: Architecture) -> torch.Tensor:
    return torch.zeros(1, model.channels, *model.image_size, device=_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _Yardstick(nn.Module):
    """A product of matrices, a tenth of a millisecond or so."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.full((YARDSTICK_SIZE, YARDSTICK_SIZE), 0.5, device=_device())

    def forward(self) -> torch.Tensor:
        return self.matrix @ self.matrix


def _length(module: nn.Module, *arguments: Any, **named: Any) -> float:
    """Return the time of a call in eval mode in yardsticks, without the first two calls.

    Of either the lower quartile counts: what else the machine does makes a call slower, never
    faster.
    """
    module.eval()
    yardstick, begun = _Yardstick(), time.perf_counter()
    times, paces = list[float](), list[float]()
    for run in range(-2, RUNS):
        pace, spent = _timed(yardstick), _timed(module, *arguments, **named)
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
