"""Which of timm's architectures castle, which in part, which are refused, and why.

    python benchmarks/timm_models.py [--only 'swin*'] [--seconds 120]

Builds every architecture that holds attention on the meta device, without weights, castles all of
it, and compares the closed form with a count of the castled model. Writes docs/timm-models.csv, a
line per architecture, and the tables of docs/timm-models.md. A quarter of an hour on one core.
"""

import argparse
import csv
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from castling.config import BackboneConfig
from castling.errors import ConfigError
from castling.model.backbone import backbone_config, stock_config
from castling.model.build import build
from castling.model.castle import castle
from castling.model.hosts.anatomy import anatomy_of, attentions
from castling.model.hosts.spec import HOSTS
from space.cost import cost


WRONG = "WRONG"
OURS = "castling_vit"
"""What castling registers with timm."""
STATES = ("castles", "in part", "refused", WRONG)
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
    """castles, in part, or refused."""
    castled: int = 0
    """Attention layers that castle."""
    attentions: int = 0
    """Attentions that it has."""
    kinds: str = ""
    """Hosts of the layers that castle."""
    softmax_macs: int | None = None
    """As timm has it."""
    castled_macs: int | None = None
    """With linear_angular in every layer that castles."""
    reason: str = ""
    """Why it is refused, or what stays as it is."""
    reasons: tuple[str, ...] = ()
    """The same without paths, for the page."""


def main() -> int:
    """Try all architectures; returns 1 when a closed form was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--seconds", type=int, default=120, help="time for one architecture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name in timm.list_models(arguments.only, exclude_filters=OURS):
        row = tried(name, arguments.seconds)
        if row is not None:
            rows.append(row)
            print(f"{row.state:9} {row.castled:3} of {row.attentions:3}  {name}  {row.reason}")
    print(*(f"{count} {state}" for state, count in Counter(row.state for row in rows).items()))
    if arguments.only == "*":
        write_table(rows)
        write_page(rows)
    return int(any(row.state == WRONG for row in rows))


def tried(name: str, seconds: int) -> Row | None:
    """Return what becomes of an architecture; None when it holds no attention."""
    with torch.device("meta"):
        model = timm.create_model(name)
    if not attentions(model):
        return None
    try:
        with at_most(seconds):
            return castled_row(name, model)
    except TimeoutError:
        reason = f"takes more than {seconds} seconds"
        return Row(architecture=name, family=family_of(model), state="refused", reason=reason)


def family_of(model: nn.Module) -> str:
    """Return the name of timm's module that has the architecture."""
    return type(model).__module__.rpartition(".")[2]


def castled_row(name: str, model: nn.Module) -> Row:
    """Return what becomes of an architecture; the model is timm's, on the meta device."""
    row = partial(Row, architecture=name, family=family_of(model))
    held = len(attentions(model))
    try:
        config = backbone_config(name, "linear_angular")
    except ConfigError as error:
        reason = error.rule.removeprefix("must have attention that can castle: ")
        return row(
            state="refused", attentions=held, reason=reason, reasons=(without_path(reason),)
        )
    refused, closed = anatomy_of(config).refused, cost(config).macs
    row = partial(
        row,
        castled=len(config.blocks),
        attentions=len(config.blocks) + len(refused),
        kinds=kinds_of(config, model),
        softmax_macs=cost(stock_config(config)).macs,
        castled_macs=closed,
    )
    counted = counted_macs(config)
    if counted != closed:
        return row(state=WRONG, reason=f"torch counts {counted} MACs")
    return row(
        state="in part" if refused else "castles",
        reason=what_stays(refused),
        reasons=tuple(refused.values()),
    )


def without_path(reason: str) -> str:
    """Return a refusal without the path that it begins with."""
    first, _, rest = reason.partition(" ")
    return rest if "." in first or first.startswith(("attn", "block")) else reason


def counted_macs(config: BackboneConfig) -> int:
    """Return the multiply-accumulates that torch counts in one image's pass when castled."""
    with torch.device("meta"):
        model = castle(build(config))
    image = torch.zeros(1, config.channels, *config.image_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.requires_grad_(requires_grad=False)(image)
    return counter.get_total_flops() // 2


def kinds_of(config: BackboneConfig, model: nn.Module) -> str:
    """Return the hosts of the layers that castle."""
    parts = [model.get_submodule(layer.name) for layer in anatomy_of(config).layers]
    found = {next(name for name, host in HOSTS.items() if host.knows(part)) for part in parts}
    return " ".join(sorted(found))


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
        ("family", *STATES, "hosts"),
        [family_line([row for row in rows if row.family == name]) for name in families],
    )
    for state in ("in part", "refused"):
        reasons = Counter(
            reason for row in rows if row.state == state for reason in set(row.reasons)
        )
        yield as_markdown((f"{state}, as an attention", "architectures"), reasons.most_common())


def family_line(rows: Sequence[Row]) -> Sequence[object]:
    """Return a family's counts by state and its hosts."""
    totals = Counter(row.state for row in rows)
    hosts = sorted({host for row in rows for host in row.kinds.split()})
    return (rows[0].family, *(totals[state] or "" for state in STATES), ", ".join(hosts))


def as_markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rule, *lines))


if __name__ == "__main__":
    sys.exit(main())
