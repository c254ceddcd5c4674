import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

import castling
from castling.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from castling.data import DATASETS
from castling.data.arrays import Split
from castling.data.batches import Batch
from castling.data.dataset import Dataset, DatasetInfo, Images, SplitName
from castling.data.digits import Digits
from castling.errors import ConfigError, DataError
from castling.files import write_yaml
from castling.tasks import TASKS
from castling.training.data import load_data
from reports.export import evaluate_folder
from search.train import train_config


CLASSES = ("even", "above four", "round")


class Traits(Dataset):
    """Digits with three labels each: even, above four, drawn with a closed loop."""

    def info(self) -> DatasetInfo:
        sizes = Digits(self.config, self.model).info().sizes
        return DatasetInfo(image_shape=(1, 8, 8), classes=CLASSES, sizes=sizes, is_multilabel=True)

    def open(self, split: SplitName) -> Split:
        source = Digits(self.config, self.model).open(split)
        digit = source.labels
        images: Images = source.read(np.arange(len(digit)))
        traits = [digit % 2 == 0, digit > 4, np.isin(digit, (0, 6, 8, 9))]
        return Split(images=images, labels=np.stack(traits, axis=1))


MODEL = ModelConfig(num_classes=3, embed_width=16)
RUN = RunConfig(
    model=MODEL,
    data=DataConfig(name="traits"),
    task="multilabel",
    train=TrainConfig(epochs=3, learning_rate=0.01),
)


def test_several_labels_are_learnt_written_evaluated_and_predicted(tmp_path: Path) -> None:
    write_yaml(tmp_path / "config.yaml", RUN.to_data())
    with DATASETS.temporarily("traits", Traits):
        written = train_config(tmp_path / "config.yaml", tmp_path / "out")
        test = Traits(RUN.data, RUN.model).open("test")
        assert evaluate_folder(tmp_path / "out").is_reproduced
    assert written.primary == "map"
    assert {"map", "micro_f1", "macro_f1"} == written.validation.keys() == written.test.keys()
    assert written.test["map"] > test.labels.mean() + 0.2
    assert 0.0 < (written.validation_branch or 0.0) <= 1.0
    found = castling.load(tmp_path / "out").predict(Image.fromarray(test.images[0, 0]))
    assert {*found} == {*CLASSES}
    assert abs(sum(found.values()) - 1.0) > 1e-3  # each label has a probability of its own


def test_the_metrics_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator)
    truth = logits + torch.randn(50, 3, generator=generator) > 0
    outputs = iter(logits.split(20))
    batches = [Batch(torch.zeros(len(part), 1), part) for part in truth.split(20)]
    found = TASKS["multilabel"].build(RUN).evaluate(lambda _: next(outputs), batches)
    scores, labels = logits.numpy(), truth.numpy()
    assert found == {
        "map": pytest.approx(average_precision_score(labels, scores)),
        "micro_f1": pytest.approx(f1_score(labels, scores > 0, average="micro")),
        "macro_f1": pytest.approx(f1_score(labels, scores > 0, average="macro")),
    }


def loss(labels: torch.Tensor, **settings: object) -> float:
    task = TASKS["multilabel"].build(RUN.replace(train=RUN.train.replace(**settings)))
    task.begin(np.array([[True, False, False], [True, True, False], [False, True, False]]))
    outputs = torch.tensor([[1.0, -2.0, 0.5]])
    return task.loss(lambda _: outputs, Batch(torch.zeros(1, 1), labels), 0.0)["bce"].item()


def test_the_loss_by_hand() -> None:
    labels = torch.tensor([[True, False, True]])
    likelihood = [torch.tensor(x).sigmoid().log().item() for x in (1.0, 2.0, 0.5)]
    opposite = [torch.tensor(-x).sigmoid().log().item() for x in (1.0, 2.0, 0.5)]
    assert loss(labels, label_smoothing=0.0) == pytest.approx(-sum(likelihood) / 3)
    smooth = -sum(0.9 * a + 0.1 * b for a, b in zip(likelihood, opposite, strict=True)) / 3
    assert loss(labels, label_smoothing=0.2) == pytest.approx(smooth)
    assert loss(labels.float(), label_smoothing=0.2) == loss(labels, label_smoothing=0.0)
    balanced = loss(labels, label_smoothing=0.0, class_weights="balanced")
    weighted = 0.5 * likelihood[0] + likelihood[1] + likelihood[2]
    assert balanced == pytest.approx(-weighted / 3)


def test_labels_that_are_not_the_task_s_are_refused(tmp_path: Path) -> None:
    with DATASETS.temporarily("traits", Traits):
        with pytest.raises(DataError, match=r"must have one class per image, has several"):
            load_data(RUN.data, MODEL)
        with pytest.raises(DataError, match=r"any number of classes per image, has one"):
            load_data(DataConfig(), ModelConfig(), "multilabel")
        plain = type(
            "Plain",
            (Traits,),
            {"info": lambda self: dataclasses.replace(Traits.info(self), is_multilabel=False)},
        )
    with (
        DATASETS.temporarily("traits", plain),
        pytest.raises(DataError, match=r"one label per image unless its info says is_multilabel"),
    ):
        load_data(RUN.data, MODEL)
    with pytest.raises(ConfigError, match=r"train.sampler: must be shuffle"):
        TASKS["multilabel"].build(RUN.replace(train=RUN.train.replace(sampler="balanced")))
