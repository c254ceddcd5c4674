import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from castling.config import DataConfig, ModelConfig, RunConfig
from castling.data import DATASETS
from castling.data.arrays import Split
from castling.data.batches import Batch
from castling.data.dataset import Dataset, DatasetInfo, SplitName
from castling.errors import ConfigError, DataError
from castling.tasks import TASKS
from castling.tasks.classification import Classification
from castling.training.data import load_data, training_data
from castling.training.order import training_order


OUTPUTS = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(7, (60,), generator=torch.Generator().manual_seed(2))  # none of class 7


def built(**settings: object) -> Classification:
    run = RunConfig(model=ModelConfig(num_classes=8))
    return Classification(run.replace(train=run.train.replace(**settings)))


def loss(task: Classification, labels: torch.Tensor) -> float:
    [value] = task.loss(lambda _: OUTPUTS, Batch(torch.zeros(60, 1), labels), 0.0).values()
    return value.item()


def test_the_metrics_are_those_of_scikit_learn() -> None:
    outputs = iter(OUTPUTS.split(25))
    batches = [Batch(torch.zeros(len(part), 1), part) for part in LABELS.split(25)]
    found = built().evaluate(lambda _: next(outputs), batches)
    guess = OUTPUTS.argmax(1)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(LABELS, guess)
    top5 = top_k_accuracy_score(LABELS, OUTPUTS, k=5, labels=range(8))
    assert found == {
        "top1": int((guess == LABELS).sum()) / 60,
        "top5": pytest.approx(top5),
        "balanced_accuracy": pytest.approx(balanced),
        "macro_f1": pytest.approx(f1_score(LABELS, guess, average="macro")),
    }


def test_top5_is_measured_where_there_are_more_classes() -> None:
    spec = TASKS["classification"]
    assert "top5" not in spec.measured(5)
    assert "top5" in spec.measured(6)


def test_soft_labels_are_taken_as_they_are() -> None:
    soft = torch.rand(60, 8, generator=torch.Generator().manual_seed(3)).softmax(1)
    assert loss(built(), soft) == pytest.approx(SoftTargetCrossEntropy()(OUTPUTS, soft).item())
    bce = BinaryCrossEntropy(smoothing=0.0)(OUTPUTS, soft).item()
    assert loss(built(loss="bce"), soft) == pytest.approx(bce)


def test_bce_is_timm_s_with_smoothing() -> None:
    bce = BinaryCrossEntropy(smoothing=0.2)(OUTPUTS, LABELS).item()
    assert loss(built(loss="bce", label_smoothing=0.2), LABELS) == pytest.approx(bce)


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_balanced_weights_count_every_class_equally(name: str) -> None:
    labels = np.array([0] * 30 + [1] * 10)
    listed = [40 / 240, 40 / 80, *[1.0] * 6]  # images / (8 classes x images of the class)
    by_count, by_list = (
        built(loss=name, class_weights=weights) for weights in ("balanced", listed)
    )
    for task in (by_count, by_list):
        task.begin(labels)
    assert loss(by_count, LABELS) == pytest.approx(loss(by_list, LABELS))
    assert loss(by_count, LABELS) != pytest.approx(loss(built(loss=name), LABELS))


def test_class_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        built(class_weights=[1.0, 2.0]).begin(LABELS.numpy())
    assert str(caught.value) == (
        "train.class_weights: must have a weight for each of the 8 classes, got '2 weights'"
    )
    run = RunConfig.from_data({"train": {"class_weights": [1.0, 2.0]}})
    with pytest.raises(ConfigError, match="each of the 10 classes"):  # before anything trains
        training_data(run)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_balanced_epoch_shows_each_class_equally_often() -> None:
    labels = np.array([0] * 5000 + [1] * 4000 + [2] * 100)
    config = RunConfig().train.replace(sampler="balanced")
    order = training_order(labels, config, generator())
    counts = np.bincount(labels[order % len(labels)])
    assert np.abs(counts / len(labels) - 1 / 3).max() < 0.02
    assert len(order.unique()) == len(order) == len(labels)  # copies are told apart
    assert torch.equal(order, training_order(labels, config, generator()))
    assert not torch.equal(order, training_order(labels, config, generator(1)))


def test_a_shuffled_epoch_shows_each_image_once() -> None:
    labels = np.zeros(50, dtype=np.int64)
    order = training_order(labels, RunConfig().train, generator())
    assert torch.equal(order, torch.randperm(50, generator=generator()))


class Beyond(Dataset):
    """Images with a label that no class has."""

    def info(self) -> DatasetInfo:
        return DatasetInfo(image_shape=(1, 8, 8), classes=("a", "b"), sizes={"train": 20})

    def open(self, split: SplitName) -> Split:  # noqa: ARG002
        images = np.zeros((20, 1, 8, 8), dtype=np.uint8)
        return Split(images=images, labels=np.arange(20) % 2 * 7)


def test_labels_beyond_the_head_are_refused() -> None:
    model = ModelConfig(num_classes=2)
    with DATASETS.temporarily("beyond", Beyond), pytest.raises(DataError) as caught:
        load_data(DataConfig(name="beyond"), model)
    assert str(caught.value) == (
        "data beyond: must have labels from 0 to 1, the head's classes, got 7; "
        "correct the labels, or the classes of the dataset"
    )
