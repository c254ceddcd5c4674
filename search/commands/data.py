"""Work on data before a training: `castling data pack`."""

from pathlib import Path
from typing import Annotated

import typer

from search.commands.console import print_result
from search.commands.options import OutOption


app = typer.Typer(help="Prepare images for many trainings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Prepare images for many trainings."""


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images as for --images.")],
    out: OutOption,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side.", min=1)] = 256,
) -> None:
    """Decode and shrink a folder of images once, for `data.name: pack:OUT`."""
    from castling.config import DataConfig, ModelConfig
    from castling.data import DATASETS
    from castling.data.pack import write_pack
    from castling.data.selection import Selection

    root = folder.expanduser().absolute()
    model = ModelConfig(channels=3, image_size=(size, size), patch_size=1)
    dataset = DATASETS["folder"](DataConfig(name=f"folder:{root}"), model)
    info = dataset.info()
    splits = {name: Selection.whole(dataset.open(name)) for name in info.sizes}
    number = write_pack(splits, info.classes, out, size=size, root=str(root))
    gigabytes = (out / "pixels.bin").stat().st_size / 1e9
    print_result(f"{number:,} images, {gigabytes:.2f} GB; use them with data.name=pack:{out}")
