"""Which of timm's architectures can be converted, which in part, which are refused, and why.

    python benchmarks/timm_models.py [--only 'swin*'] [--seconds 120]
    python benchmarks/timm_models.py --recount deit_tiny_patch16_224 levit_128s ...

Builds every architecture that holds attention on the meta device, without weights, converts all of
it, and compares the closed form with torch's count of the result. Writes
docs/timm-models.csv, a line per architecture, and the tables of docs/timm-models.md. Half an hour
on one core.
"""

import argparse
import csv
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType

import timm
import torch
from torch import nn

from castling.config import LayerChoice
from castling.costs.count import macs_by_module
from castling.errors import ConfigError
from castling.model.adapters.sites import AttentionSites, NoAttentionError, attentions, examine
from castling.model.adapters.spec import AttentionLayer
from castling.model.backbone import backbone_config
from castling.model.build import build
from castling.model.castle import castle
from space.cost import cost
from space.measure import measure_macs


WRONG = "WRONG"
OURS = "castling_vit"
"""What castling registers with timm."""
STATES = ("converts", "in part", "refused", WRONG)
DOCS = Path(__file__).parents[1] / "docs"
TABLE, PAGE = DOCS / "timm-models.csv", DOCS / "timm-models.md"
BEGIN, END = "<!-- tables: written by benchmarks/timm_models.py -->", "<!-- end of tables -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one architecture."""

    architecture: str
    family: str
    """timm's module that has it."""
    state: str
    """converts, in part, or refused."""
    converted: int = 0
    """Attention layers that are converted."""
    attentions: int = 0
    """Attentions that it has."""
    kinds: str = ""
    """Adapters of the layers that are converted."""
    softmax_macs: int | None = None
    """As timm has it."""
    converted_macs: int | None = None
    """With linear_angular in every layer that is converted."""
    reason: str = ""
    """Why it is refused, or what stays as it is."""
    reasons: tuple[str, ...] = ()
    """The same without paths, for the page."""


def main() -> int:
    """Try the architectures; return other than 0 when a closed form was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--seconds", type=int, default=120, help="time for one architecture")
    parser.add_argument("--recount", nargs="+", help="count these by fvcore, on the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.recount:
        return sum(not recounted(name) for name in arguments.recount)
    rows = []
    for name in timm.list_models(arguments.only, exclude_filters=OURS):
        row = tried(name, arguments.seconds)
        if row is not None:
            rows.append(row)
            print(
                f"{row.state:9} {row.converted:3} of {row.attentions:3}  {name}  {row.reason}",
                flush=True,
            )
    print(*(f"{count} {state}" for state, count in Counter(row.state for row in rows).items()))
    if arguments.only == "*":
        write_table(rows)
        write_page(rows)
    return int(any(row.state == WRONG for row in rows))


def tried(name: str, seconds: int) -> Row | None:
    """Return what becomes of an architecture; None when it holds no attention."""
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    row = partial(Row, architecture=name, family=family)
    own = timm.get_pretrained_cfg(name)
    shape = tuple(own.input_size) if own else (3, 224, 224)
    with torch.device("meta"):
        model = timm.create_model(name)
    held = attentions(model)
    if not held:
        return None
    row = partial(row, attentions=len(held))
    try:
        with at_most(seconds):
            return converted_row(row, model, examine(model, name, shape), shape)
    except NoAttentionError as error:
        reasons = tuple(error.refused.values())
        return row(state="refused", reason=what_stays(error.refused), reasons=reasons)
    except ConfigError as error:
        reason = error.rule
    except TimeoutError:
        reason = f"takes more than {seconds} seconds"
    return row(state="refused", reason=reason, reasons=(reason,))


def converted_row(
    row: Callable[..., Row], model: nn.Module, sites: AttentionSites, shape: tuple[int, int, int]
) -> Row:
    """Return what becomes of an architecture some of whose attentions are converted."""
    choice, layers = LayerChoice(), sites.layers
    own = sites.fixed_macs + sum(layer.stock_macs for layer in layers)
    closed = sites.fixed_macs + sum(layer.macs(choice) for layer in layers)
    row = partial(
        row,
        converted=len(layers),
        kinds=" ".join(sorted({adapter_of(layer) for layer in layers})),
        softmax_macs=own,
        converted_macs=closed,
    )
    with torch.device("meta"):
        for layer in layers:
            stock = model.get_submodule(layer.name)
            model.set_submodule(layer.name, layer.converted(stock, choice))
    counted = macs_by_module(castle(model).requires_grad_(requires_grad=False), shape)[""]
    if counted != closed:
        return row(state=WRONG, reason=f"torch counts {counted} MACs")
    return row(
        state="in part" if sites.refused else "converts",
        reason=what_stays(sites.refused),
        reasons=tuple(sites.refused.values()),
    )


def recounted(name: str) -> bool:
    """Print and return whether fvcore's count of a castled model is the closed form."""
    config = backbone_config(name, "linear_angular")
    measured = measure_macs(castle(build(config)), (config.channels, *config.image_size))
    closed = cost(config).macs
    print(f"{name}: closed form {closed:,}, fvcore {measured:,}", flush=True)
    return measured == closed


def adapter_of(layer: AttentionLayer) -> str:
    """Return the adapter that a layer is of: the file that makes it."""
    return getattr(layer, "build", type(layer)).__module__.rpartition(".")[2]


def what_stays(refused: Mapping[str, str]) -> str:
    """Return why attentions stay as they are, each reason with one of their paths."""
    reasons: dict[str, list[str]] = {}
    for name, reason in refused.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} {reason}"
        for reason, names in reasons.items()
    )


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError inside the with-block when it takes longer."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write_table(rows: Sequence[Row]) -> None:
    """Write a line per architecture."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        columns = [field.name for field in fields(Row) if field.name != "reasons"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_page(rows: Sequence[Row]) -> None:
    """Write the tables of the page between its two marks; the words around them stay."""
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    tables = "\n\n".join(
        [f"timm {timm.__version__}, torch {torch.__version__}.", *tables_of(rows)]
    )
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}", encoding="utf-8")


def tables_of(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the totals, the families and the reasons as Markdown."""
    totals = Counter(row.state for row in rows)
    yield as_markdown(
        ("", "architectures"),
        [(state, totals[state]) for state in STATES] + [("all", len(rows))],
    )
    families = sorted({row.family for row in rows})
    yield as_markdown(
        ("family", *STATES, "adapters"),
        [family_line([row for row in rows if row.family == name]) for name in families],
    )
    for state in ("in part", "refused"):
        reasons = Counter(
            reason for row in rows if row.state == state for reason in set(row.reasons)
        )
        yield as_markdown((f"{state}, as an attention", "architectures"), reasons.most_common())


def family_line(rows: Sequence[Row]) -> Sequence[object]:
    """Return a family's counts by state and its adapters."""
    totals = Counter(row.state for row in rows)
    adapters = sorted({adapter for row in rows for adapter in row.kinds.split()})
    return (rows[0].family, *(totals[state] or "" for state in STATES), ", ".join(adapters))


def as_markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rule, *lines))


if __name__ == "__main__":
    sys.exit(main())
