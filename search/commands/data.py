"""Data before a training: `castling data list` and `castling data pack`."""

from typing import Annotated

import typer

from search.commands.console import print_result, print_table
from search.commands.options import OutOption


app = typer.Typer(help="Data before a training.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Data before a training."""


@app.command("list")
def list_data() -> None:
    """List the sources of images that data.name and --images can name."""
    from castling.data.sources import list_sources

    print_table(("data.name", "images", "to install"), list_sources())


@app.command()
def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Images as for --images.")],
    out: OutOption,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side.", min=1)] = 256,
) -> None:
    """Decode and shrink images once, for `data.name: pack:OUT`."""
    from castling.config import DataConfig, ModelConfig
    from castling.data import DATASETS
    from castling.data.pack import write_pack
    from castling.data.selection import Selection
    from castling.data.sources import source_name

    name = source_name(source)
    kind, _, root = name.partition(":")
    model = ModelConfig(channels=3, image_size=(size, size), patch_size=1)
    dataset = DATASETS[kind](DataConfig(name=name), model)
    info = dataset.info()
    splits = {split: Selection.whole(dataset.open(split)) for split in info.sizes}
    number = write_pack(
        splits, info.classes, out, size=size, root=root if kind == "folder" else ""
    )
    gigabytes = (out / "pixels.bin").stat().st_size / 1e9
    print_result(f"{number:,} images, {gigabytes:.2f} GB; use them with data.name=pack:{out}")
