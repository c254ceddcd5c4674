import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from castling.config import BackboneConfig, BlockConfig, DistillConfig, ModelConfig, RunConfig
from castling.errors import CastlingError, CheckpointError, ConfigError
from castling.model.backbone import backbone_config
from castling.model.build import build
from castling.model.storage import WEIGHTS_FILE, save
from castling.training.teacher import check_weights, digest_of, load_initial, load_teacher, located


VIT, OPTIONS = "vit_tiny_patch16_224", {"embed_dim": 16, "depth": 1, "num_heads": 2}
SMALL = BlockConfig(operator="softmax", num_heads=2, head_size=8, mlp_ratio=1.0)
MODEL = ModelConfig(embed_width=16, blocks=(SMALL, SMALL))


def run_of(model: ModelConfig | BackboneConfig, **train: object) -> RunConfig:
    run = RunConfig(model=model)
    return run.replace(train=run.train.replace(**train))


def backbone(num_classes: int = 10, image_size: int = 32) -> BackboneConfig:
    return backbone_config(
        VIT, "linear_angular", image_size=image_size, num_classes=num_classes, **OPTIONS
    )


def timm_file(path: Path, num_classes: int = 10, image_size: int = 32, **changes: object) -> Path:
    options = {**OPTIONS, "img_size": image_size, "num_classes": num_classes, **changes}
    save_file(timm.create_model(VIT, **options).state_dict(), path)
    return path


def taught(**distill: object) -> dict[str, object]:
    return {"distill": DistillConfig(**distill)}


def test_no_weights_to_begin_with() -> None:
    assert load_initial(RunConfig()) is None


def test_a_folder_is_loaded_as_it_is_for_each_training(tmp_path: Path) -> None:
    saved = build(MODEL, seed=3)
    save(saved, tmp_path)
    run = run_of(
        MODEL.replace(blocks=(SMALL.replace(operator="linear_angular"),) * 2),
        initial=str(tmp_path),
    )
    found = load_initial(run)
    assert found is not None
    assert found.config.blocks[0].operator == "softmax"
    assert torch.equal(found.head.weight, saved.head.weight)
    with torch.no_grad():
        found.head.weight.zero_()
    again = load_initial(run)  # what one training does to its model is not seen by another
    assert again is not None
    assert torch.equal(again.head.weight, saved.head.weight)


def test_a_checkpoint_of_timm_is_a_model_of_softmax(tmp_path: Path) -> None:
    path = timm_file(tmp_path / "vit.safetensors")
    found = load_initial(run_of(backbone(), initial=str(path)))
    assert found is not None
    assert [layer.operator for layer in found.config.blocks] == ["softmax"]
    own = timm.create_model(VIT, img_size=32, num_classes=10, **OPTIONS)
    assert found.state_dict().keys() == own.state_dict().keys()


def test_a_classifier_of_other_classes_begins_at_random_and_equal_each_time(
    tmp_path: Path,
) -> None:
    path = str(timm_file(tmp_path / "vit.safetensors", num_classes=7))
    first, other = (load_initial(run_of(backbone(), initial=path, seed=seed)) for seed in (0, 1))
    again = load_initial(run_of(backbone(), initial=path))
    assert first is not None
    assert other is not None
    assert again is not None
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)


def test_the_original_teaches_as_a_copy_without_gradients() -> None:
    run = run_of(MODEL, **taught())
    initial = build(MODEL, seed=0)
    teacher = load_teacher(run, initial)
    assert not teacher.training
    assert not any(part.requires_grad for part in teacher.parameters())
    assert all(part.requires_grad for part in initial.parameters())
    assert torch.equal(teacher.head.weight, initial.head.weight)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_folder_teaches_in_the_precision_of_a_training(
    precision: torch.dtype, tmp_path: Path
) -> None:
    wide = MODEL.replace(embed_width=24)
    save(build(wide, seed=0).to(precision), tmp_path)
    run = run_of(MODEL, **taught(teacher=str(tmp_path)), initial=str(tmp_path))
    teacher = load_teacher(run, None)
    assert teacher.config == wide.castled()
    for model in (teacher, load_initial(run)):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet10t", VIT])
def test_a_model_of_timm_teaches(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=10)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    size = 64 if name == "resnet10t" else 224
    run = run_of(backbone(image_size=size), **taught(teacher=name, weights=path))
    teacher = load_teacher(run, None)
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(teacher(image), model.eval()(image), atol=1e-5)


def test_digests_tell_weights_and_architectures_apart() -> None:
    digests = [
        digest_of(build(config, seed=seed))
        for config, seed in ((MODEL, 0), (MODEL, 0), (MODEL, 1), (MODEL.castled(), 0))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_weights_are_named_by_absolute_paths_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    run = run_of(MODEL, initial="soft", **taught(teacher="teacher", weights="w.pth"))
    train = located(run).train
    assert train.distill is not None
    assert (train.initial, train.distill.teacher, train.distill.weights) == (
        str(tmp_path / "soft"), str(tmp_path / "teacher"), tmp_path / "w.pth"
    )  # fmt: skip
    for kept in (run_of(MODEL), run_of(MODEL, initial="pretrained", **taught(teacher=VIT))):
        assert located(kept) == kept


def refused(run: RunConfig, kind: type[CastlingError], reason: str) -> None:
    with pytest.raises(kind, match=reason) as caught:
        check_weights(run)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("role", ["initial", "teacher"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("num_classes", 7), ("image_size", (16, 16)), ("channels", 3)],
)
def test_a_folder_of_other_images_or_classes_is_refused(
    role: str, field: str, value: object, tmp_path: Path
) -> None:
    save(build(MODEL.replace(**{field: value}), seed=0), tmp_path)
    train = taught(teacher=str(tmp_path)) if role == "teacher" else {"initial": str(tmp_path)}
    place = "train.distill.teacher" if role == "teacher" else "train.initial"
    refused(
        run_of(MODEL, **train),
        ConfigError,
        f"^{re.escape(place)}: .*{field}.*, got {re.escape(str(value))}",
    )


@pytest.mark.parametrize("harm", ["missing", "truncated", "text", "foreign"])
@pytest.mark.parametrize("role", ["initial folder", "initial file", "teacher folder", "teacher"])
def test_broken_weights_are_refused(role: str, harm: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(build(MODEL, seed=0), folder)
    is_folder = role.endswith("folder")
    path = folder / WEIGHTS_FILE if is_folder else timm_file(tmp_path / "vit.safetensors")
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "text":
        path.write_text("not a checkpoint")
    else:
        save_file({"weight": torch.zeros(3)}, path)
    named = str(folder) if is_folder else str(path)
    if role.startswith("initial"):
        run = run_of(MODEL if is_folder else backbone(), initial=named)
    elif is_folder:
        run = run_of(MODEL, **taught(teacher=named))
    else:
        run = run_of(backbone(), **taught(teacher=VIT, weights=named))
    refused(run, CheckpointError, f"^{re.escape(str(path))}: cannot be loaded, ")


def test_a_teacher_of_timm_of_other_classes_or_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    for changes, reason in (
        ({"num_classes": 7}, r"must tell the model's 10 classes apart, got '7 classes'"),
        ({"image_size": 64, "embed_dim": 192, "depth": 12, "num_heads": 3}, "must take the model"),
    ):
        timm_file(path, **changes)
        run = run_of(backbone(), **taught(teacher=VIT, weights=path))
        refused(run, ConfigError, rf"^train\.distill\.teacher: {reason}")
    for model, reason in (
        (backbone(), r"model's 10 classes apart, got '1,000 classes'"),
        (backbone(num_classes=1000), r"images of \(3, 32, 32\)"),
    ):  # of what would be downloaded, before it is
        refused(run_of(model, **taught(teacher=VIT)), ConfigError, reason)


def test_an_original_with_a_random_classifier_cannot_teach(tmp_path: Path) -> None:
    path = timm_file(tmp_path / "vit.safetensors", num_classes=7)
    run = run_of(backbone(), initial=str(path), **taught())
    refused(run, ConfigError, r"^train\.distill\.teacher: .* 10 classes apart, got '7 classes'")


@pytest.mark.parametrize(
    ("model", "train", "reason"),
    [
        (MODEL, {"initial": "nowhere"}, r"train\.initial: must be a folder of castling's, a chec"),
        (MODEL, {"initial": "pretrained"}, r"train\.initial: must be a folder of castling's here"),
        (MODEL, {"initial": "vit.pth"}, r"train\.initial: must be a folder of castling's here"),
        (MODEL, taught(), r"distill\.teacher: .* begins with no weights.*set train\.initial"),
        (MODEL, taught(teacher="nobody"), r"train\.distill\.teacher: must be `initial`, a folder"),
        (MODEL, taught(teacher="resnet10t", weights="no.pth"), "no.pth: cannot be loaded, there"),
        (MODEL, taught(teacher="vit_pe_core_gigantic_patch14_448_x"), "must be `initial`"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(
    model: ModelConfig, train: dict[str, object], reason: str
) -> None:
    refused(run_of(model, **train), CastlingError, reason)


def test_a_folder_brings_its_own_weights(tmp_path: Path) -> None:
    save(build(MODEL, seed=0), tmp_path)
    run = run_of(MODEL, **taught(teacher=str(tmp_path), weights="other.pth"))
    refused(run, ConfigError, r"^train\.distill\.weights: must be left out")


@pytest.mark.parametrize("role", ["initial", "teacher"])
def test_weights_that_cannot_be_fetched_are_said_to_be(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    model = backbone_config("deit_tiny_patch16_224", "linear_angular")
    monkeypatch.setattr(timm, "create_model", unreachable)
    train = {"initial": "pretrained"} if role == "initial" else taught(teacher=model.backbone)
    refused(
        run_of(model, **train), CheckpointError, r"^timm's deit_.*fetched \(no network\); check"
    )
