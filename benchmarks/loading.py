"""Loading of pictures: images per second against timm's loader, and peak memory.

JPEG files are cut from the photographs of scikit-learn, at 320 x 256 pixels.
`python benchmarks/loading.py` takes some minutes; `--images 20000` is the full size.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageDataset, create_loader

from castling.config import AugmentConfig, DataConfig, ModelConfig, RunConfig
from castling.data.batches import epoch_order
from castling.training.data import training_batches, training_data


FILES, BATCH, SIDE = 1280, 64, 224
"""Different files; further ones are links to them."""


def make_files(root: Path, number: int) -> None:
    """Write JPEG files of two classes; beyond FILES they are hard links."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    for label in (0, 1):
        (root / f"c{label}").mkdir(parents=True)
    first: list[Path] = []
    for index in range(number):
        path = root / f"c{index % 2}" / f"{index:07}.jpg"
        if index < FILES:
            top, left = rng.integers(0, 427 - 256), rng.integers(0, 640 - 320)
            part = photos[index % 2][top : top + 256, left : left + 320]
            Image.fromarray(part).save(path, quality=90)
            first.append(path)
        else:
            path.hardlink_to(first[(index % 2) + 2 * (index // 2 % (FILES // 2))])


def run_of(root: Path, workers: int) -> RunConfig:
    """Return a run on the files with timm's own augmentation."""
    data = DataConfig(name=f"folder:{root}", cache="off", loader_workers=workers)
    model = ModelConfig(image_size=(SIDE, SIDE), patch_size=16, channels=3, num_classes=2)
    run = RunConfig(model=model, data=data)
    augment = AugmentConfig(preset="timm", interpolation="bilinear")
    return run.replace(train=run.train.replace(augment=augment, batch_size=BATCH))


def ours(root: Path, workers: int) -> Iterator[float]:
    """Yield the images per second of our epochs."""
    run = run_of(root, workers)
    batches, _ = training_batches(training_data(run), run, torch.device("cpu"))
    for epoch in range(10**6):
        order = epoch_order(len(batches), torch.Generator().manual_seed(epoch))
        sizes = [len(rows) for rows in order.split(BATCH)]
        started = time.perf_counter()
        for batch in batches.shuffled(order, sizes, seed=epoch):
            assert batch.images.dtype == torch.float32
        yield len(batches) / (time.perf_counter() - started)


def theirs(root: Path, workers: int) -> Iterator[float]:
    """Yield the images per second of timm's epochs over the files."""
    loader = create_loader(
        ImageDataset(str(root)),
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=workers > 0,
    )
    while True:
        seen, started = 0, time.perf_counter()
        for images, _ in loader:
            seen += len(images)
        yield seen / (time.perf_counter() - started)


def race(root: Path, workers: int, rounds: int) -> None:
    """Print the medians of epochs that take turns."""
    entries = {"ours": ours(root, workers), "timm": theirs(root, workers)}
    for entry in entries.values():
        next(entry)
    rates: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, entry in entries.items():
            rates[name].append(next(entry))
    mine, other = (statistics.median(rates[name]) for name in ("ours", "timm"))
    print(f"| {workers} | {mine:.0f} | {other:.0f} | {mine / other:.3f} |", flush=True)


def memory(root: Path) -> None:
    """Print the peak memory of this process, in MB, after it read all images once."""
    run = run_of(root, 0)
    next(ours(root, 0))
    data = training_data(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"| {len(data.train):,} | {peak:.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="files of the larger folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        memory(arguments.memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        make_files(small, FILES)
        make_files(large, arguments.images)
        print("| workers | ours, images/s | timm, images/s | ratio |\n|---|---|---|---|")
        for workers in (0, 1, 2):
            race(small, workers, arguments.rounds)
        print("| images | peak MB |\n|---|---|")
        for root in (small, large):
            subprocess.run([sys.executable, __file__, "--memory", str(root)], check=True)


if __name__ == "__main__":
    main()
