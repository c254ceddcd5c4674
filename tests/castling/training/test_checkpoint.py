import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from epochs import epoch_metrics
from safetensors.torch import save_file
from torch import Tensor, nn

from castling.config import ModelConfig
from castling.errors import CheckpointError
from castling.model.build import build
from castling.model.castle import set_progress
from castling.model.storage import read_tensors, write_tensors
from castling.model.vit import CastlingViT
from castling.operators.modules.auxiliary import branches
from castling.training.checkpoint import (
    Snapshot,
    State as TrainingState,
    load_checkpoint as load_state,
)
from castling.training.metrics import EpochMetrics


METRICS = epoch_metrics(2, mask_density=(0.125,), loss=1.5, top1=0.25, learning_rate=3e-4)
State = tuple[CastlingViT, torch.optim.Optimizer]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    metrics: EpochMetrics,
    config_id: str,
    extra: nn.Module | None = None,
) -> None:
    state = TrainingState(model=model, optimizer=optimizer, extra=extra, metrics=metrics)
    Snapshot.of(state, config_id).write(path)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config_id: str,
    extra: nn.Module | None = None,
    newest_epoch: int | None = None,
) -> EpochMetrics:
    state = TrainingState(model=model, optimizer=optimizer, extra=extra)
    load_state(path, state, config_id, newest_epoch)
    assert state.metrics is not None
    return state.metrics


def started(seed: int, steps: int, config: ModelConfig | None = None) -> State:
    """Return a model and its optimiser after a few steps on noise."""
    model = build(config or ModelConfig(), seed=seed)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        step(model, optimizer, torch.randn(4, 1, 8, 8, generator=generator))
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> None:
    optimizer.zero_grad()
    model(images).square().sum().backward()
    optimizer.step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def state() -> State:
    model, optimizer = started(0, steps=3)
    set_progress(model, 0.4)
    return model, optimizer


@pytest.fixture
def path(state: State, tmp_path: Path) -> Path:
    file = tmp_path / "checkpoint.safetensors"
    save_checkpoint(file, *state, METRICS, "me")
    return file


def test_a_restored_state_goes_on_bit_for_bit(state: State, path: Path) -> None:
    model, optimizer = state
    other, other_optimizer = started(1, steps=0)
    assert load_checkpoint(path, other, other_optimizer, "me") == METRICS
    assert equal(model, other)
    assert branches(other)[0].threshold == branches(model)[0].threshold
    images = torch.randn(4, 1, 8, 8)
    for _ in range(2):
        step(model, optimizer, images)
        step(other, other_optimizer, images)
    assert equal(model, other)


def test_the_optimiser_is_restored_too(state: State, path: Path) -> None:
    # Without its moments the next step would differ: the test above can fail.
    model, optimizer = state
    fresh, fresh_optimizer = started(1, steps=0)
    fresh.load_state_dict(model.state_dict())
    images = torch.randn(4, 1, 8, 8)
    step(model, optimizer, images)
    step(fresh, fresh_optimizer, images)
    assert not equal(model, fresh)


def test_the_optimisers_own_options_are_kept(path: Path) -> None:
    model, optimizer = started(1, steps=0)
    load_checkpoint(path, model, optimizer, "me")
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {group["fused"] for group in optimizer.param_groups} == {True}


def refused(
    path: Path, reason: str, config_id: str = "me", config: ModelConfig | None = None
) -> None:
    model, optimizer = started(1, steps=1, config=config)
    twin, twin_optimizer = started(1, steps=1, config=config)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(path, model, optimizer, config_id)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    images = torch.randn(4, 1, 8, 8)
    step(model, optimizer, images)
    step(twin, twin_optimizer, images)
    assert equal(model, twin)  # neither the model nor the optimiser was changed


def test_a_checkpoint_of_another_training_is_refused(path: Path) -> None:
    refused(path, "another training", config_id="you")


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.safetensors", "No such file")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9999])
def test_a_truncated_checkpoint_is_refused(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(path, "truncated")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"config_id": "me"},
        {"config_id": "me", "metrics": "no json"},
        {"config_id": "me", "metrics": "[]"},
        {"config_id": "me", "metrics": "3"},
        {"config_id": "me", "metrics": '{"epoch": 1}'},
        {"config_id": "me", "metrics": '{"epoch": 1, "mask_density": 3}'},
    ],
    ids=str,
)
def test_a_foreign_safetensors_file_is_refused(
    path: Path, metadata: dict[str, str] | None
) -> None:
    save_file(read_tensors(path)[0], path, metadata)
    refused(path, "not a training checkpoint")


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(pooling="cls"),
        ModelConfig(embed_width=24),
        ModelConfig(blocks=ModelConfig().blocks * 2),
        ModelConfig(num_classes=3),
    ],
    ids=["pooling", "width", "depth", "classes"],
)
def test_a_checkpoint_of_another_model_is_refused(path: Path, config: ModelConfig) -> None:
    # Of the same id: a digest that forgot a field must not end in a wrong model.
    refused(path, "another model", config=config)


def rewrite(path: Path, drop: str = "", add: dict[str, Tensor] | None = None) -> None:
    tensors, metadata = read_tensors(path)
    kept = {name: value for name, value in tensors.items() if not drop or drop not in name}
    save_file(kept | (add or {}), path, metadata)


def test_a_checkpoint_without_part_of_its_state_is_refused(path: Path) -> None:
    rewrite(path, drop="model.head")
    refused(path, "another model")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("optimizer.x.step", ()),
        ("optimizer.999.step", ()),
        ("optimizer.step", ()),
        ("optimizer.0.exp_avg", (3,)),
        ("optimizer.1.exp_avg", (2, 2)),
    ],
)
def test_a_checkpoint_of_another_optimiser_is_refused(
    path: Path, name: str, shape: tuple[int, ...]
) -> None:
    rewrite(path, add={name: torch.zeros(shape)})
    refused(path, "another optimiser")


def test_the_extra_module_has_a_place_of_its_own(state: State, path: Path) -> None:
    head, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
    save_checkpoint(path, *state, METRICS, "me", head)
    assert {name for name in read_tensors(path)[0] if name.startswith("beside.")} == {
        "beside.weight",
        "beside.bias",
    }
    assert load_checkpoint(path, *started(1, steps=0), "me", fresh) == METRICS
    assert equal(head, fresh)


@pytest.mark.parametrize("extra", [None, nn.Linear(4, 2)])
def test_a_checkpoint_with_another_extra_module_is_refused(
    state: State, path: Path, extra: nn.Module | None
) -> None:
    save_checkpoint(path, *state, METRICS, "me", nn.Linear(3, 2))
    model, optimizer = started(1, steps=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="another model"):
        load_checkpoint(path, model, optimizer, "me", extra)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Make writes past `size` bytes of a file fail with OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_the_last_checkpoint(state: State, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(OSError, match="File too large"), files_up_to(len(before) // 2):
        save_checkpoint(path, *state, METRICS.replace(epoch=3), "me")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    save_checkpoint(path, *state, METRICS.replace(epoch=3), "me")
    assert load_checkpoint(path, *state, "me").epoch == 3


def test_metrics_are_kept_as_json(path: Path) -> None:
    metadata = read_tensors(path)[1]
    assert EpochMetrics.from_data(json.loads(metadata["metrics"])) == METRICS
    assert metadata["config_id"] == "me"


def test_a_checkpoint_with_a_hostile_note_is_refused(state: State, path: Path) -> None:
    tensors, metadata = read_tensors(path)
    for note in (
        "[" * 100_000,
        "9" * 10_000,
        "{}",
        "[]",
        '{"self": 1}',
        json.dumps({"epoch": "x"}),
    ):
        write_tensors(path, tensors, {**metadata, "metrics": note})
        refused(path, "it is not a training checkpoint")
    whole = json.loads(metadata["metrics"])
    no_loss = {name: value for name, value in whole["metrics"].items() if name != "loss"}
    for change in (
        {"epoch": "1"},
        {"epoch": 0},
        {"metrics": whole["metrics"] | {"loss": None}},
        {"metrics": whole["metrics"] | {"loss": 10**400}},
        {"metrics": no_loss},
        {"metrics": []},
        {"mask_density": ["x"]},
    ):
        write_tensors(path, tensors, {**metadata, "metrics": json.dumps(whole | change)})
        refused(path, "it is not a training checkpoint")


@pytest.mark.parametrize(
    "add",
    [
        {"model.head.bias": torch.zeros(5, dtype=torch.int8)},
        {"optimizer.0.step": torch.zeros((), dtype=torch.int64)},
        {"optimizer.0.evil": torch.zeros(())},
        {"x": torch.zeros(2**20)},
    ],
    ids=str,
)
def test_a_checkpoint_of_other_types_or_states_is_refused(
    path: Path, add: dict[str, torch.Tensor]
) -> None:
    rewrite(path, add=add)
    refused(path, "it belongs to another|it holds another model")


def test_a_checkpoint_with_masks_at_no_fraction_of_a_training_is_refused(path: Path) -> None:
    name = next(name for name in read_tensors(path)[0] if name.endswith(".progress"))
    rewrite(path, add={name: torch.tensor(float("nan"), dtype=torch.float64)})
    refused(path, "its masks are at no fraction of a training")
