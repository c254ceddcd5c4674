"""Lists of all choices: `castling operators`, `layers`, `spaces` and others."""

from collections.abc import Mapping
from typing import Annotated, Protocol

import typer
from rich.table import Table

from castling.sizes import format_size
from search.commands.console import console, print_table


def metrics() -> None:
    """List the metrics that a search can trade off and bound."""
    from castling.metrics import recorded_metrics

    when = {"cost": "before training", "training": "by training"}
    better = {"max": "high", "min": "low", None: "-"}
    rows = (
        (
            metric.name,
            better[metric.direction],
            when[metric.source],
            metric.unit or "-",
            metric.description,
        )
        for metric in recorded_metrics()
    )
    print_table(("metric", "better", "measured", "unit", "summary"), rows)


def operators(
    tokens: Annotated[int, typer.Option(help="Tokens, a square number.", min=1)] = 196,
    width: Annotated[int, typer.Option(help="Embed width.", min=1)] = 192,
    heads: Annotated[int, typer.Option(help="Heads; must divide the width.", min=1)] = 3,
) -> None:
    """List the operators with the cost of a layer."""
    from space.operator_table import operator_costs

    rows = (
        (name, *map(format_size, (spent.macs, spent.training_macs, spent.params)), summary)
        for name, spent, summary in operator_costs(tokens, width, heads)
    )
    print_table(
        ("operator", "MACs", "training MACs", "params", "summary"),
        rows,
        title=f"{tokens} tokens, width {width}, {heads} heads",
        words=("operator", "summary"),
    )


def layers(
    backbone: Annotated[str, typer.Argument(help="timm's name: deit_tiny_patch16_224.")],
    image_size: Annotated[int | None, typer.Option(help="Pixels of a square image.")] = None,
    operator: Annotated[
        list[str] | None, typer.Option(help="Operator to price; by default two.")
    ] = None,
) -> None:
    """List the attention layers of one of timm's models, with the cost of operators in them."""
    from castling.model.adapters.sites import sites_of
    from castling.model.backbone import stock_backbone
    from space.cost import layer_costs

    model = stock_backbone(backbone, image_size=image_size)
    names = operator or ["softmax", "linear_angular"]
    rows = layer_costs(model, names)
    table = Table(box=None, pad_edge=False, title="MACs of each attention layer, by operator")
    longest = max(len(row.path) for row in rows)
    table.add_column("layer", justify="right")
    table.add_column("timm's module", min_width=longest, no_wrap=True)
    for column in ("queries", "keys", *names):
        table.add_column(column, justify="right")
    for index, row in enumerate(rows):
        costs = [format_size(row.macs[name]) if name in row.macs else "-" for name in names]
        table.add_row(str(index), row.path, str(row.queries), str(row.keys), *costs)
    console.print(table)
    for path, reason in sites_of(model).refused.items():
        console.print(f"{path} stays as it is: it {reason}", soft_wrap=True)


def spaces() -> None:
    """List the spaces that a recipe can search."""
    from space.presets import SPACES

    rows = []
    for name, preset in SPACES.items():
        listing = preset.listing()
        ends = map(format_size, (listing.fewest_macs, listing.most_macs))
        rows.append((name, str(listing.dimensions), *ends, preset.summary))
    columns = ("space", "dimensions", "fewest MACs", "most MACs", "summary")
    print_table(columns, rows, words=("space", "summary"))


def recipes() -> None:
    """List the recipes, of searches and of trainings."""
    from castling.training.recipes import TRAININGS
    from search.recipes import RECIPES

    _print_summaries("recipe", RECIPES)
    console.print()
    _print_summaries("training", TRAININGS)


def strategies() -> None:
    """List the strategies: where candidates come from."""
    from search.strategies import STRATEGIES

    _print_summaries("strategy", STRATEGIES)


def samplers() -> None:
    """List the samplers that propose candidates."""
    from search.samplers import SAMPLERS

    _print_summaries("sampler", SAMPLERS)


def stoppers() -> None:
    """List the stoppers that give trainings up early."""
    from search.stoppers import STOPPERS

    _print_summaries("stopper", STOPPERS)


class _Summarised(Protocol):
    @property
    def summary(self) -> str: ...


def _print_summaries(kind: str, entries: Mapping[str, _Summarised]) -> None:
    print_table((kind, "summary"), [(name, entry.summary) for name, entry in entries.items()])
