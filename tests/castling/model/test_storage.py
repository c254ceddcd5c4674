import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import castling
from castling.config import BlockConfig, DataConfig, MaskSchedule, ModelConfig, RunConfig
from castling.errors import CastlingError, CheckpointError, ConfigError
from castling.model.castle import castle, is_castled, set_progress
from castling.model.check import read_run_config
from castling.model.storage import CONFIG_FILE, WEIGHTS_FILE, load_weights, read_tensors
from castling.model.vit import CastlingViT
from castling.operators.modules.auxiliary import branches


CONFIG = ModelConfig(
    image_size=(4, 6),
    channels=3,
    num_classes=5,
    embed_width=12,
    pooling="cls",
    blocks=(
        BlockConfig(conv_form="grid", conv_kernel=3, num_heads=2, head_size=4),
        BlockConfig(operator="softmax", mlp_ratio=1.5),
        BlockConfig(mask=None),
    ),
)


@pytest.fixture
def model() -> CastlingViT:
    built = castling.build(CONFIG, seed=0)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    set_progress(built, 1.0)
    return built.eval()


def logits(model: CastlingViT) -> torch.Tensor:
    images = torch.randn(4, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return model(images)


@pytest.mark.parametrize("castled", [False, True])
def test_what_is_saved_loads_castled_and_computes_the_same(
    model: CastlingViT, tmp_path: Path, castled: bool
) -> None:
    castling.save(castle(model) if castled else model, tmp_path / "new" / "best")
    loaded = castling.load(str(tmp_path / "new" / "best"))
    assert is_castled(loaded)
    assert not loaded.training
    assert loaded.config == CONFIG.castled()
    assert torch.equal(logits(loaded), logits(model))
    assert sorted(path.name for path in (tmp_path / "new" / "best").iterdir()) == [
        CONFIG_FILE,
        WEIGHTS_FILE,
    ]


def test_a_folder_keeps_the_run_it_was_trained_with(model: CastlingViT, tmp_path: Path) -> None:
    run = RunConfig(model=CONFIG, data=DataConfig(num_train=64))
    castling.save(model, tmp_path, run)
    assert read_run_config(tmp_path) == run
    castling.save(model, tmp_path)
    assert read_run_config(tmp_path) == RunConfig(model=CONFIG)


def test_a_model_is_rebuilt_from_its_config(model: CastlingViT, tmp_path: Path) -> None:
    castling.save(model, tmp_path)
    rebuilt = castling.build(read_run_config(tmp_path).model, seed=5)
    tensors, metadata = read_tensors(tmp_path / WEIGHTS_FILE)
    assert metadata == {"castled": "false"}
    rebuilt.load_state_dict(tensors)
    assert all(branch.is_empty for branch in branches(rebuilt))  # progress is in the file
    assert torch.equal(logits(rebuilt.eval()), logits(model))


def test_a_foreign_files_metadata_is_not_needed(model: CastlingViT, tmp_path: Path) -> None:
    castling.save(castle(model), tmp_path)
    tensors = read_tensors(tmp_path / WEIGHTS_FILE)[0]
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    assert torch.equal(logits(castling.load(tmp_path)), logits(model))


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        castling.load(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder / WEIGHTS_FILE}: cannot be loaded, ")
    assert "\n" not in text
    assert caught.value.__suppress_context__  # a user sees no chain of foreign tracebacks


def test_weights_cut_at_any_place_are_refused(model: CastlingViT, tmp_path: Path) -> None:
    castling.save(model, tmp_path)
    path = tmp_path / WEIGHTS_FILE
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0] + 8
    for length in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(tmp_path, "truncated or not safetensors")
    path.write_bytes(whole + b"\0")
    refused(tmp_path, "truncated or not safetensors")


def header_only(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 a zip file",
        b"\x80\x04\x95 a pickle",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"\xff" * 64,
        header_only([]),
        header_only({"head.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
        header_only({"head.weight": {"dtype": "??", "shape": [0], "data_offsets": [0, 0]}}),
        header_only({"head.weight": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}),
        header_only({"head.weight": {"dtype": "F6_E2M3", "shape": [0], "data_offsets": [0, 0]}}),
        header_only({"__metadata__": {"castled": 3}}),
    ],
    ids=lambda content: repr(content)[:40],
)
def test_foreign_weights_are_refused(model: CastlingViT, tmp_path: Path, content: bytes) -> None:
    castling.save(model, tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(content)
    refused(tmp_path, "not safetensors|another model")


def test_missing_weights_are_refused(model: CastlingViT, tmp_path: Path) -> None:
    castling.save(model, tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    refused(tmp_path, "No such file")
    (tmp_path / WEIGHTS_FILE).mkdir()
    refused(tmp_path, "Is a directory")


@pytest.mark.parametrize(
    "other",
    [
        CONFIG.replace(embed_width=16),
        CONFIG.replace(num_classes=6),
        CONFIG.replace(pooling="mean"),
        CONFIG.replace(blocks=CONFIG.blocks[:2]),
        CONFIG.replace(blocks=(*CONFIG.blocks, BlockConfig())),
        CONFIG.replace(blocks=(BlockConfig(operator="softmax"),) * 3),
    ],
    ids=["width", "classes", "pooling", "shallower", "deeper", "operators"],
)
@pytest.mark.parametrize("castled", [False, True])
def test_weights_of_another_model_are_refused(
    model: CastlingViT, tmp_path: Path, other: ModelConfig, castled: bool
) -> None:
    castling.save(castle(model) if castled else model, tmp_path)
    with pytest.raises(CheckpointError, match="it holds another model") as caught:
        load_weights(other, tmp_path / WEIGHTS_FILE)
    assert "\n" not in str(caught.value)


def test_a_training_checkpoint_is_not_a_model(model: CastlingViT, tmp_path: Path) -> None:
    castling.save(model, tmp_path)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / WEIGHTS_FILE, {"format": "castling-checkpoint"})
    refused(tmp_path, "it holds another model")


def test_a_broken_or_missing_config_is_refused_as_such(model: CastlingViT, tmp_path: Path) -> None:
    castling.save(model, tmp_path)
    config = tmp_path / CONFIG_FILE
    config.write_text("model: {embed_width: wide}")
    with pytest.raises(ConfigError, match=r"model\.embed_width"):
        castling.load(tmp_path)
    config.unlink()
    with pytest.raises(CastlingError, match="No such file"):
        castling.load(tmp_path)


def set_stored_progress(folder: Path, progress: torch.Tensor) -> None:
    """Write another progress of the masks into a folder's weights."""
    tensors, metadata = read_tensors(folder / WEIGHTS_FILE)
    [name] = [name for name in tensors if name.endswith("auxiliary.progress")]
    save_file(tensors | {name: progress}, folder / WEIGHTS_FILE, metadata)


@pytest.mark.parametrize(
    ("shape", "progress"),
    [("step", math.nan), ("linear", math.nan), ("cosine", -0.1), ("step", 1.1), ("step", 1e300)],
)
def test_masks_at_no_fraction_of_a_training_are_refused(
    shape: str, progress: float, tmp_path: Path
) -> None:
    blocks = (BlockConfig(mask=MaskSchedule(shape=shape)),)
    castling.save(castling.build(CONFIG.replace(blocks=blocks), seed=0), tmp_path)
    set_stored_progress(tmp_path, torch.tensor(progress, dtype=torch.float64))
    refused(tmp_path, "progress is no fraction of a training")


def test_masks_that_an_earlier_version_cast_with_their_model_are_loaded(
    model: CastlingViT, tmp_path: Path
) -> None:
    castling.save(model.bfloat16(), tmp_path)
    set_stored_progress(tmp_path, torch.tensor(0.3, dtype=torch.bfloat16))
    assert castling.load(tmp_path).head.weight.dtype == torch.bfloat16


def test_weights_that_are_tied_are_saved(model: CastlingViT, tmp_path: Path) -> None:
    model.blocks[1].norm1.weight = model.blocks[0].norm1.weight
    castling.save(model, tmp_path)
    assert torch.equal(logits(castling.load(tmp_path)), logits(model))


def half_head(model: nn.Module) -> nn.Module:
    model.head.half()
    return model


def wider_head(model: nn.Module) -> nn.Module:
    model.head = nn.Linear(12, 7)
    return model


def no_head(model: nn.Module) -> nn.Module:
    model.head = nn.Identity()
    return model


def normed_head(model: nn.Module) -> nn.Module:
    nn.utils.parametrizations.weight_norm(model.head)
    return model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (half_head, "in one of float32, float64, bfloat16, float16 .*float16, float32"),
        (lambda model: model.to(torch.float8_e4m3fn), "in one of float32, .*float8_e4m3fn"),
        (lambda model: model.to(torch.complex64), "in one of float32, .*complex64"),
        (lambda model: model.to("meta"), "it is on the meta device"),
        (wider_head, "weights that its config asks for"),
        (no_head, "weights that its config asks for"),
        (normed_head, "weights that its config asks for"),
    ],
    ids=["mixed", "float8", "complex", "meta", "wider", "shorter", "parametrized"],
)
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("castled", [False, True])
def test_what_could_not_be_loaded_is_not_saved(
    change: Callable[[nn.Module], nn.Module],
    reason: str,
    model: CastlingViT,
    castled: bool,
    tmp_path: Path,
) -> None:
    changed = change(castle(model) if castled else model)
    with pytest.raises(ConfigError, match=f"^model: .*{reason}") as caught:
        castling.save(changed, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_model_is_not_saved_with_the_run_of_another(model: CastlingViT, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weights that its config asks for"):
        castling.save(model, tmp_path / "new", RunConfig())
