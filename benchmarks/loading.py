"""Loading of pictures: images per second against timm's loader, peak memory, time to a first step.

JPEG files are cut from the photographs of scikit-learn, at 320 x 256 pixels.
`python benchmarks/loading.py throughput`, `memory` and `start` take some minutes each.
"""

import argparse
import os
import resource
import signal
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
from castling.data.index import IndexFile
from castling.data.selection import Selection
from castling.training.data import training_batches, training_data
from castling.training.fingerprint import fingerprints
from castling.training.summary import describe
from reports.records import training_path


FILES, BATCH, SIDE = 1280, 64, 224
"""Different files; further ones are links to them."""
IMAGENET = 1_281_167
STEPS = 30
"""Steps of an epoch after which memory is read."""
EVERY_S = 0.1
"""Seconds between two looks at the processes of a search."""


def make_files(root: Path, number: int, folders: int = 2) -> None:
    """Write JPEG files in class folders; beyond FILES they are hard links."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    for label in range(folders):
        (root / f"c{label:04}").mkdir(parents=True)
    first: list[Path] = []
    for index in range(number):
        path = root / f"c{index % folders:04}" / f"{index:07}.jpg"
        if index < FILES:
            top, left = rng.integers(0, 427 - 256), rng.integers(0, 640 - 320)
            part = photos[index % 2][top : top + 256, left : left + 320]
            Image.fromarray(part).save(path, quality=90)
            first.append(path)
        else:
            os.link(first[(index % 2) + 2 * (index // 2 % (FILES // 2))], path)


def run_of(root: Path, workers: int, folders: int = 2) -> RunConfig:
    """Return a run on the files with timm's own augmentation."""
    data = DataConfig(name=f"folder:{root}", cache="off", loader_workers=workers)
    model = ModelConfig(image_size=(SIDE, SIDE), patch_size=16, channels=3, num_classes=folders)
    run = RunConfig(model=model, data=data)
    augment = AugmentConfig(preset="timm", interpolation="bilinear")
    return run.replace(train=run.train.replace(augment=augment, batch_size=BATCH))


def ours(run: RunConfig) -> Iterator[tuple[float, float]]:
    """Yield the images per second of our epochs, and CPU seconds of each image."""
    batches, _ = training_batches(training_data(run), run, torch.device("cpu"))
    for epoch in range(10**6):
        order = epoch_order(len(batches), torch.Generator().manual_seed(epoch))
        order = order[: len(order) // BATCH * BATCH]
        with timed(len(order)) as found:
            for batch in batches.shuffled(order, [BATCH] * (len(order) // BATCH), seed=epoch):
                assert batch.images.dtype == torch.float32
        yield found[0]


def theirs(root: Path, workers: int) -> Iterator[tuple[float, float]]:
    """Yield the same of timm's epochs over the files."""
    dataset = ImageDataset(str(root))
    loader = create_loader(
        dataset,
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=workers > 0,
    )
    while True:
        with timed(len(dataset) // BATCH * BATCH) as found:
            for images, _ in loader:
                assert images.dtype == torch.float32
        yield found[0]


class timed:  # noqa: N801 - a with-block
    """Images per second of a block, and CPU seconds per image of this process and its workers."""

    def __init__(self, images: int) -> None:
        self._images, self._found = images, list[tuple[float, float]]()

    def __enter__(self) -> list[tuple[float, float]]:
        self._begun, self._cpu = time.perf_counter(), cpu_seconds(os.getpid())
        return self._found

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._begun
        cpu = cpu_seconds(os.getpid()) - self._cpu
        self._found.append((self._images / seconds, cpu / self._images))


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process and of all below it, those included that have ended."""
    parents: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended
            continue
        number = int(folder.name)
        parents.setdefault(int(fields[1]), []).append(number)
        ticks[number] = sum(map(int, fields[11:15]))
    waiting, total = [process], 0
    while waiting:
        one = waiting.pop()
        total += ticks.get(one, 0)
        waiting += parents.get(one, [])
    return total / os.sysconf("SC_CLK_TCK")


def same_files(run: RunConfig, root: Path) -> None:
    """Link the training images of a run, in whole batches, in class folders for timm."""
    train = training_data(run).train
    assert isinstance(train, Selection)
    for row in train.rows[: len(train) // BATCH * BATCH].tolist():
        path = Path(train.source.name(row))
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, root / path.parent.name / path.name)


def throughput(folder: Path, rounds: int) -> None:
    """Print the medians of epochs that take turns, on the same files in whole batches."""
    make_files(folder / "ours", 2_134)  # of which 1,280 are training images
    same_files(run_of(folder / "ours", 0), folder / "timm")
    print("| workers | ours, images/s | timm, images/s | ratio | ours, CPU ms | timm, CPU ms |")
    print("|---|---|---|---|---|---|")
    for workers in (0, 1, 2):
        entries = {
            "ours": ours(run_of(folder / "ours", workers)),
            "timm": theirs(folder / "timm", workers),
        }
        for entry in entries.values():
            next(entry)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in entries}
        for turn in range(rounds):
            for name in sorted(entries, reverse=bool(turn % 2)):
                found[name].append(next(entries[name]))
        rates = {name: statistics.median(one[0] for one in found[name]) for name in entries}
        cpu = {name: 1e3 * statistics.median(one[1] for one in found[name]) for name in entries}
        pairs = zip(found["ours"], found["timm"], strict=True)
        ratio = statistics.median(mine[0] / other[0] for mine, other in pairs)
        print(
            f"| {workers} | {rates['ours']:.0f} | {rates['timm']:.0f} | {ratio:.3f} "
            f"| {cpu['ours']:.2f} | {cpu['timm']:.2f} |",
            flush=True,
        )


def peak(root: Path, folders: int) -> None:
    """Print the peak memory of this process, in MB, after the first steps of a training."""
    run = run_of(root, 0, folders)
    index = IndexFile(root.with_suffix(".out") / "images.safetensors", is_new=True)
    data = training_data(run, index=index)
    index.write()
    describe(run, data, index)
    fingerprints(data)
    batches, _ = training_batches(data, run, torch.device("cpu"))
    order = epoch_order(len(batches), torch.Generator().manual_seed(0))
    steps = [len(rows) for rows in order.split(BATCH)]
    for step, batch in enumerate(batches.shuffled(order, steps), start=1):
        assert batch.images.dtype == torch.float32
        if step == STEPS:
            break
    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    number = len(index.index or ())
    print(f"| {number:,} | {folders:,} | {mb:.0f} | {200 * number / 1e6:.0f} |", flush=True)


def memory(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Print the peak memory of trainings on few and on many images."""
    print(
        "| images | class folders | peak, MB | 200 bytes a path, MB |\n|---|---|---|---|",
        flush=True,
    )
    for number, folders in sizes:
        root = folder / f"{number}_{folders}"
        make_files(root, number, folders)
        words = [sys.executable, __file__, "peak", "--root", root, "--folders", folders]
        subprocess.run([*map(str, words)], check=True, stderr=subprocess.DEVNULL)


def first_step(words: list[str], checkpoint: Path) -> tuple[float, float]:
    """Return CPU seconds of a search, Ray's processes too, and seconds until it made a step."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    begun = time.perf_counter()
    search = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
        if search.poll() is not None:
            raise SystemExit(f"the search ended early, with {search.returncode}")
        time.sleep(EVERY_S)
    found = cpu_seconds(search.pid), time.perf_counter() - begun
    search.send_signal(signal.SIGINT)
    search.wait()
    return found


def start(folder: Path, number: int) -> None:
    """Print what a search takes until the first step of its first trial, cold and resumed."""
    make_files(folder / "images", number)
    out = folder / "run"
    castling = [sys.executable, "-c", "from search.cli import main; main()"]
    settings = ["train.batch_size=8", "train.checkpoint_minutes=0.0001", "data.cache=off"]
    words = [*castling, "search", "deit_tiny", "--images", str(folder / "images")]
    words += ["--trials", "1", "--workers", "1", "--out", str(out)]
    words += [part for setting in settings for part in ("--set", setting)]
    print("| start | CPU s | s |\n|---|---|---|")
    cold = first_step(words, training_path(out, 0))
    print(f"| cold | {cold[0]:.1f} | {cold[1]:.1f} |", flush=True)
    warm = [*castling, "search", "--out", str(out), "--resume"]
    second = first_step(warm, training_path(out, 0))
    print(f"| second | {second[0]:.1f} | {second[1]:.1f} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["throughput", "memory", "start", "peak"])
    parser.add_argument("--images", type=int, default=20_000, help="of memory and start")
    parser.add_argument("--most", type=int, default=IMAGENET, help="paths of the largest index")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folders", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "peak":
        peak(arguments.root, arguments.folders)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.what == "throughput":
            throughput(folder, arguments.rounds)
        elif arguments.what == "memory":
            sizes = [
                (2_000, 2),
                (arguments.images, 2),
                (arguments.most, 1_000),
                (arguments.most, 2),
            ]
            memory(folder, sizes)
        else:
            start(folder, arguments.images)


if __name__ == "__main__":
    main()
