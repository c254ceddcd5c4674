"""Pictures of varied aspect ratio: timm's crops against squash and flip, on real pictures.

    python benchmarks/photos.py [--seeds 3] [--epochs 120]

The pictures are the stamps of Debian's package tuxpaint-stamps-default (photographs and drawings
that are cut out, on white): seven kinds of things, 241 files from tall to wide.
The same CastlingViT is trained from random weights with three augmentations; validation and test
images go through the evaluation transform that belongs to each. The accuracy is that of the 97
validation and test images together; no choice is made by either. One thread; a seed changes the
split too.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from castling.config import RunConfig
from castling.files import write_yaml
from reports.model_metrics import ModelMetrics
from search.train import train_config


STAMPS = Path("/usr/share/tuxpaint/stamps")
KINDS = {
    "mammals": "animals/mammals",
    "birds": "animals/birds",
    "insects": "animals/insects",
    "fruit": "food/fruit",
    "vegetables": "food/vegetables",
    "flowers": "plants/flowers",
    "houses": "town/houses",
}
AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "squash and flip": {"preset": "small", "flip": True},
    "crop and flip (timm)": {"preset": "timm", "crop_scale": [0.35, 1.0]},
    "crop, RandAugment, erasing (deit)": {
        "preset": "deit",
        "crop_scale": [0.35, 1.0],
        "repeated": 1,
        "mixup": 0.0,
        "cutmix": 0.0,
    },
}
BLOCK = {"num_heads": 4, "head_size": 24, "conv_kernel": 5, "conv_form": "grid"}


def class_folders(root: Path) -> int:
    """Copy the stamps into class folders; return how many there are."""
    number = 0
    for kind, place in KINDS.items():
        (root / kind).mkdir(parents=True)
        for path in sorted((STAMPS / place).rglob("*")):
            if path.suffix in {".png", ".jpg"} and path.is_file():
                shutil.copy(path, root / kind / f"{number:03d}{path.suffix}")
                number += 1
    return number


def run_config(pictures: Path, augment: Mapping[str, Any], seed: int, epochs: int) -> RunConfig:
    """Return the training of one augmentation and seed."""
    return RunConfig.from_data(
        {
            "model": {
                "image_size": 64,
                "patch_size": 8,
                "channels": 3,
                "num_classes": len(KINDS),
                "embed_width": 96,
                "blocks": [BLOCK] * 4,
            },
            "train": {
                "epochs": epochs,
                "batch_size": 16,
                "learning_rate": 1e-3,
                "augment": augment,
                "seed": seed,
            },
            "data": {"name": f"folder:{pictures}", "split_seed": seed, "loader_workers": 0},
        }
    )


def held_out(metrics: ModelMetrics) -> float:
    """Return the accuracy on the validation and test images together."""
    parts = [
        (int(metrics.images[split].split()[0]), values["top1"])
        for split, values in (("validation", metrics.validation), ("test", metrics.test))
    ]
    return sum(count * top1 for count, top1 in parts) / sum(count for count, _ in parts)


def main() -> None:
    """Train each augmentation with each seed and print accuracies, means and deviations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("augmentation", "top1 of each seed", "mean", "deviation", "CPU s each")
    with tempfile.TemporaryDirectory() as folder:
        number = class_folders(Path(folder) / "pictures")
        for name, augment in AUGMENTATIONS.items():
            found, started = [], time.process_time()
            for seed in range(options.seeds):
                place = Path(folder) / f"{name}-{seed}".replace(" ", "-")
                run = run_config(Path(folder) / "pictures", augment, seed, options.epochs)
                write_yaml(place / "run.yaml", run.to_data())
                metrics = train_config(place / "run.yaml", place / "out")
                found.append(held_out(metrics))
            spent = (time.process_time() - started) / options.seeds
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            each = ", ".join(f"{value:.1%}" for value in found)
            table.add_row(
                name, each, f"{statistics.mean(found):.1%}", f"{spread:.1%}", f"{spent:.0f}"
            )
    Console(width=120).print(f"{number} pictures, {options.epochs} epochs", table)


if __name__ == "__main__":
    main()
