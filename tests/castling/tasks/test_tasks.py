import pytest
import torch
from torch import Tensor

from castling.config import BlockConfig, DataConfig, DistillConfig, ModelConfig, RunConfig
from castling.data import DATASETS
from castling.data.arrays import Split
from castling.data.batches import Batch
from castling.data.dataset import Dataset, DatasetInfo, SplitName
from castling.errors import DataError
from castling.model.build import build
from castling.model.check import digest
from castling.tasks import TASKS
from castling.tasks.classification import Classification
from castling.tasks.task import Forward
from castling.testing import TaskContract
from castling.training.data import load_data
from castling.training.distill import Distillation
from castling.training.distilled import Distilled


RUN = RunConfig()


def batch(size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(size, 1, 8, 8, generator=generator), torch.arange(size) % 4)


@pytest.mark.parametrize("name", list(TASKS))
class TestEveryTask(TaskContract):
    pass


def test_classification_by_hand() -> None:
    outputs = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    task = Classification(RUN.replace(train=RUN.train.replace(label_smoothing=0.2)))
    pair = Batch(torch.zeros(3, 1), torch.tensor([0, 1, 1]))
    likelihoods = outputs.log_softmax(1)
    expected = sum(
        -0.9 * row[label].item() - 0.1 * row[1 - label].item()
        for row, label in zip(likelihoods, pair.labels, strict=True)
    )
    loss = task.loss(lambda _: outputs, pair, 0.0)["cross_entropy"]
    assert loss.item() == pytest.approx(expected / 3)
    assert task.evaluate(lambda _: outputs, [pair, pair])["top1"] == pytest.approx(1 / 3)


class Lonely(Dataset):
    """Images of one class."""

    def info(self) -> DatasetInfo:
        return DatasetInfo(image_shape=(1, 8, 8), classes=("a",), sizes={"train": 9})

    def open(self, split: SplitName) -> Split:
        raise AssertionError(split)


def test_data_that_lack_what_a_task_needs_are_refused() -> None:
    with DATASETS.temporarily("lonely", Lonely), pytest.raises(DataError) as caught:
        load_data(DataConfig(name="lonely"), ModelConfig())
    assert str(caught.value) == (
        "data lonely: must have two classes or more, has 1 for the task classification; "
        "choose other data or another task"
    )


class Flipped(Classification):
    """Shows the model each batch upside down, in two parts."""

    def loss(self, model: Forward, batch: Batch, progress: float) -> dict[str, Tensor]:
        halves = zip(batch.images.flip(2).split(3), batch.labels.split(3), strict=True)
        parts = [super(Flipped, self).loss(model, Batch(*half), progress) for half in halves]
        return {str(index): part["cross_entropy"] for index, part in enumerate(parts)}


def test_a_teacher_sees_the_images_that_the_task_shows_the_model() -> None:
    block = BlockConfig(operator="softmax", num_heads=2, head_size=8, mlp_ratio=1.0)
    config = ModelConfig(embed_width=16, num_classes=4, blocks=(block,))
    model, teacher = (build(config, seed=seed).eval() for seed in (0, 1))
    distillation = Distillation(DistillConfig(weight=0.3), model, teacher, seed=0)
    task = Flipped(RUN)
    terms = Distilled(task, distillation).loss(model, batch(), 0.0)
    alone = task.loss(model, batch(), 0.0)
    halves = [distillation(half)[1] for half in batch().images.flip(2).split(3)]
    assert list(terms) == ["0", "1", "distillation"]
    assert terms["distillation"].item() == pytest.approx(sum(half.item() for half in halves))
    for name in alone:
        assert terms[name].item() == pytest.approx(0.7 * alone[name].item())


def test_a_run_names_its_task_unless_it_is_that_of_version_1() -> None:
    assert "task" not in RUN.to_data()
    other = RunConfig.from_data({"task": "rotation"})
    assert RunConfig.from_data(other.to_data()) == other
    assert digest(other) != digest(RUN)
