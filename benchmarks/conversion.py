"""Conversion, measured: a softmax model's layers castle in a quarter of the epochs from scratch.

    python benchmarks/conversion.py [--seeds 3] [--epochs 20] [--images 4000] [--out FOLDER]

Trains a softmax CastlingViT on Fashion-MNIST for twice `--epochs`, trains the castled model from
scratch for `--epochs`, and converts the softmax model in a quarter of them; then leaves out one
ingredient of the conversion at a time. Prints mean and spread of the test accuracy over the
seeds, and whether the conversion reaches the softmax model and what training from scratch
reaches. A training that `--out` holds is not repeated.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev

import torch
from rich.console import Console
from rich.table import Table

from castling.config import (
    AugmentConfig,
    BlockConfig,
    DataConfig,
    DistillConfig,
    MaskSchedule,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from castling.files import write_yaml
from castling.model.storage import CONFIG_FILE
from reports.model_metrics import METRICS_FILE, ModelMetrics
from search.train import train_config


LESSON = DistillConfig(weight=0.5, temperature=3.0, layer_weight=0.1)
"""What the softmax model teaches: its logits and its layers' outputs."""
Change = Callable[[RunConfig], RunConfig]


def with_blocks(run: RunConfig, **changes: object) -> RunConfig:
    """Return a run with fields of all blocks changed."""
    blocks = tuple(block.replace(**changes) for block in run.model.blocks)
    return run.replace(model=run.model.replace(blocks=blocks))


def with_training(run: RunConfig, **changes: object) -> RunConfig:
    """Return a run with its training changed."""
    return run.replace(train=run.train.replace(**changes))


def with_lesson(run: RunConfig, **changes: object) -> RunConfig:
    """Return a run with the lesson changed."""
    assert run.train.distill is not None
    return with_training(run, distill=run.train.distill.replace(**changes))


def without_weights(run: RunConfig) -> RunConfig:
    """Return a run that begins at random and has the same teacher."""
    teacher = run.train.initial
    assert teacher is not None
    begun = with_training(run, initial=None)
    return with_lesson(begun, teacher=teacher)


ABLATIONS: Mapping[str, Change] = {
    "converted": lambda run: run,
    "without weights and teacher": lambda run: with_training(run, initial=None, distill=None),
    "without the weights": without_weights,
    "without logits": lambda run: with_lesson(run, weight=0.0),
    "without layer outputs": lambda run: with_lesson(run, layer_weight=0.0),
    "without a teacher": lambda run: with_training(run, distill=None),
    "constant mask": lambda run: with_blocks(run, mask=MaskSchedule(shape="constant")),
    "without the branch": lambda run: with_blocks(run, mask=None),
    "convolution of one tap": lambda run: with_blocks(run, conv_kernel=1),
}
"""The conversion, and the conversion without each of its ingredients."""
WHOLE = ("softmax", "castled from scratch")
"""What the conversion is compared with."""


def softmax_run(seed: int, epochs: int, images: int) -> RunConfig:
    """Return the training of the softmax model."""
    block = BlockConfig(operator="softmax", num_heads=4, head_size=16, mlp_ratio=2.0)
    return RunConfig(
        model=ModelConfig(image_size=28, patch_size=4, embed_width=64, blocks=(block,) * 4),
        train=TrainConfig(
            epochs=epochs,
            batch_size=64,
            learning_rate=2e-3,
            augment=AugmentConfig(flip=True),
            seed=seed,
        ),
        data=DataConfig(name="fashion-mnist", num_train=images, num_validation=500),
    )


def castled_run(run: RunConfig) -> RunConfig:
    """Return the same training with every layer castling."""
    return with_blocks(run, operator="linear_angular")


def conversion_run(run: RunConfig, softmax: Path) -> RunConfig:
    """Return the conversion of a trained softmax model in a quarter of the epochs."""
    shorter = with_training(
        run,
        epochs=run.train.epochs // 4,
        initial=str(softmax),
        distill=LESSON,
    )
    return castled_run(shorter)


def named_run(name: str, run: RunConfig, out: Path) -> RunConfig:
    """Return the training of a row of the table, of one seed."""
    if name == "softmax":
        return with_training(run, epochs=2 * run.train.epochs)
    if name == "castled from scratch":
        return castled_run(run)
    return ABLATIONS[name](conversion_run(run, out / f"softmax-{run.train.seed}"))


def trained(run: RunConfig, folder: Path) -> float:
    """Return the test accuracy of a training; one that the folder holds is not repeated."""
    if not (folder / METRICS_FILE).exists():
        config = folder.with_suffix(".yaml")
        write_yaml(config, run.to_data())
        resume = (folder / CONFIG_FILE).exists()
        metrics = train_config(config, folder, resume=resume)
        print(f"{folder.name}: {metrics.test['top1']:.2%}", flush=True)
    return ModelMetrics.read(folder).test["top1"]


def main() -> None:
    """Train, convert, leave out, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("runs/conversion"))
    arguments = parser.parse_args()
    epochs = arguments.epochs
    torch.set_num_threads(1)
    top1: dict[str, list[float]] = {name: [] for name in (*WHOLE, *ABLATIONS)}
    for names in ((*WHOLE, "converted"), tuple(ABLATIONS)[1:]):
        for seed in range(arguments.seeds):
            for name in names:
                run = named_run(name, softmax_run(seed, epochs, arguments.images), arguments.out)
                folder = arguments.out / f"{name.replace(' ', '-')}-{seed}"
                top1[name].append(trained(run, folder))
    Console().print(table(top1, epochs))
    for name in WHOLE:
        reached = fmean(top1["converted"]) >= fmean(top1[name])
        print(f"converted in {epochs // 4} epochs reaches {name}: {'yes' if reached else 'NO'}")


def table(top1: Mapping[str, list[float]], epochs: int) -> Table:
    """Return a row per training: epochs, mean and spread of the test accuracy."""
    shown = Table(title="test accuracy, Fashion-MNIST", box=None)
    for column in ("training", "epochs", "mean", "spread", "every seed"):
        shown.add_column(column)
    for name, values in top1.items():
        shown.add_row(
            name,
            str(named_run(name, softmax_run(0, epochs, 1), Path()).train.epochs),
            f"{fmean(values):.2%}",
            f"{stdev(values):.2%}" if len(values) > 1 else "-",
            " ".join(f"{value:.2%}" for value in values),
        )
    return shown


if __name__ == "__main__":
    main()
