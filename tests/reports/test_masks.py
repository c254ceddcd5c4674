import json
import math
from pathlib import Path

import pytest

from castling.config import MaskSchedule, RunConfig
from castling.files import write_yaml
from reports.export import evaluate_folder
from reports.masks import TrainingEnd, alive_masks, last_threshold
from reports.model_metrics import METRICS_FILE
from search.train import CURVE_FILE, train_config


def run_with(mask: MaskSchedule | None, epochs: int = 2) -> RunConfig:
    run = RunConfig.from_data(
        {"train": {"epochs": epochs}, "data": {"num_train": 200, "num_validation": 100}}
    )
    blocks = tuple(block.replace(mask=mask) for block in run.model.blocks)
    return run.replace(model=run.model.replace(blocks=blocks))


def trained(mask: MaskSchedule | None, folder: Path) -> dict[str, object]:
    """Train a config and return its metrics.json."""
    write_yaml(folder / "config.yaml", run_with(mask).to_data())
    train_config(folder / "config.yaml", folder / "out")
    return json.loads((folder / "out" / METRICS_FILE).read_text())


def test_masks_that_never_empty_are_on_record_and_said(tmp_path: Path) -> None:
    metrics = trained(MaskSchedule(shape="constant", start_multiple=0.5), tmp_path)
    last = json.loads((tmp_path / "out" / CURVE_FILE).read_text().splitlines()[-1])
    top1, branch = (last["metrics"][name] for name in ("top1", "top1_branch"))
    assert metrics["validation"]["top1"] == top1
    assert metrics["validation_branch"] == branch
    assert 0.0 < metrics["mask_density"] < 1.0
    assert metrics["mask_threshold"] < 1.0
    sentence = str(metrics["masks"])
    for part in (
        "the masks were alive when the training ended",
        f"threshold {metrics['mask_threshold']:.3g}",
        f"{metrics['mask_density']:.2%} of entries survived",
        f"{top1:.2%} castled, was {branch:.2%} with the branch",
    ):
        assert part in sentence
    assert evaluate_folder(tmp_path / "out").masks == sentence
    older = {
        name: value
        for name, value in metrics.items()
        if name not in {"validation_branch", "mask_density", "mask_threshold", "masks"}
    }
    (tmp_path / "out" / METRICS_FILE).write_text(json.dumps(older))
    result = evaluate_folder(tmp_path / "out")
    assert result.is_reproduced
    assert f"(threshold {metrics['mask_threshold']:.3g}), so that" in result.masks


def test_nothing_is_said_of_masks_that_were_empty(tmp_path: Path) -> None:
    metrics = trained(MaskSchedule(end=1.0), tmp_path)
    assert (metrics["mask_threshold"], metrics["mask_density"], metrics["masks"]) == (1.0, 0.0, "")
    assert metrics["validation_branch"] == metrics["validation"]["top1"]


def test_nothing_is_said_of_a_model_without_masks(tmp_path: Path) -> None:
    metrics = trained(None, tmp_path)
    assert metrics["masks"] == ""
    for name in ("mask_threshold", "mask_density", "validation_branch"):
        assert metrics[name] is None


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_a_training_that_ended_early_leaves_masks_alive(shape: str) -> None:
    run = run_with(MaskSchedule(shape=shape, start_multiple=2.0), epochs=8)
    tokens = 16
    thresholds = [last_threshold(run, epochs) for epochs in range(10)]
    assert thresholds[0] == 2.0 / tokens
    assert thresholds[:7] == sorted(thresholds[:7])
    assert all(threshold < 1.0 for threshold in thresholds[:6])
    assert thresholds[6:] == [1.0] * 4


def test_the_layer_whose_masks_are_most_alive_counts() -> None:
    run = run_with(MaskSchedule())
    first, *others = run.model.blocks
    constant = first.replace(mask=MaskSchedule(shape="constant", start_multiple=1.0))
    mixed = run.replace(model=run.model.replace(blocks=(*others, constant)))
    assert last_threshold(run, 2) == 1.0
    assert last_threshold(mixed, 2) == 1.0 / 16


def test_what_a_record_lacks_is_left_out() -> None:
    end = TrainingEnd.of_record(3, math.nan, 0.25)
    assert alive_masks(0.5, end, "top1", 0.75) == (
        "the masks were alive when the training ended (threshold 0.5, 25.00% of entries survived),"
        " so that dropping the branch changed the logits: top1 on the validation images is 75.00% "
        "castled"
    )
    assert TrainingEnd.of_record(3, 0.5, math.nan) == TrainingEnd(epochs=3)
