"""A trained model gives the same answers from Python, the command line, ONNX Runtime and timm."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

import castling
import castling.model
from castling.config import Preprocessing, RunConfig
from castling.data.arrays import Split
from castling.errors import ConfigError, DataError, RunFolderError
from castling.files import write_yaml
from castling.training.data import training_data
from castling.untrusted.plain_yaml import read_yaml
from reports.evaluate_images import evaluate_images
from reports.export import evaluate_folder
from reports.onnx_file import ONNX_FILE, write_onnx
from search.cli import main
from search.train import train_config


CLASSES = ("blue", "green", "red")


def picture(kind: int, number: int) -> Image.Image:
    """A noisy picture with more of one colour, of a shape of its own."""
    generator = np.random.default_rng(100 * kind + number)
    pixels = generator.integers(0, 120, (20 + 7 * (number % 4), 40 - 5 * (number % 3), 3))
    pixels[..., 2 - kind] += 40 + 10 * (number % 3)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for kind, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(16):
            picture(kind, number).save(root / name / f"{number}.png")
    return root


def trained(images: Path, out: Path, **data: object) -> Path:
    model = {"image_size": 16, "patch_size": 4, "channels": 3, "num_classes": 3, "embed_width": 16}
    run = {"model": model, "train": {"epochs": 3, "batch_size": 8}}
    write_yaml(out.with_suffix(".yaml"), run | {"data": {"name": f"folder:{images}", **data}})
    train_config(out.with_suffix(".yaml"), out)
    return out


@pytest.fixture(scope="module")
def best(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(images, tmp_path_factory.mktemp("run") / "best", crop_mode="center")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object):
    monkeypatch.setattr("sys.argv", ["castling", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["castling", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return run


def test_what_is_written_says_how_images_are_prepared(best: Path) -> None:
    section = read_yaml(best / "config.yaml")["preprocessing"]
    assert section["classes"] == [*CLASSES]
    assert (section["crop_mode"], section["image_size"]) == ("center", [16, 16])
    model = castling.load(best)
    for facts in (
        model.pretrained_cfg,
        model.default_cfg,
        timm.create_model("castling_vit", config=best).pretrained_cfg,
        timm.create_model("castling_vit", pretrained=True, config=best).default_cfg,
    ):
        assert facts["input_size"] == (3, 16, 16)
        assert (facts["num_classes"], facts["label_names"]) == (3, [*CLASSES])
        assert facts["mean"] == tuple(section["mean"])
        assert facts["std"] == tuple(section["std"])
        assert (facts["crop_mode"], facts["crop_pct"]) == ("center", section["crop_pct"])
        assert isinstance(model.get_submodule(facts["first_conv"]), torch.nn.Conv2d)
        assert isinstance(model.get_submodule(facts["classifier"]), torch.nn.Linear)


def test_a_finished_training_is_known_by_its_config(best: Path) -> None:
    """The preprocessing that it wrote does not make it the training of another config."""
    for config in (best.with_suffix(".yaml"), best):
        with pytest.raises(RunFolderError, match="is trained already"):
            train_config(config, best, resume=True)


def test_python_command_line_timm_and_onnx_agree(
    best: Path, images: Path, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    files = [images / name / f"{number}.png" for name in CLASSES for number in range(3)]
    model = castling.load(best)
    expected = model.predict([Image.open(path) for path in files])
    assert [*expected[0].values()] == sorted(expected[0].values(), reverse=True)
    assert sum(expected[0].values()) == pytest.approx(1.0)
    assert model.predict(files[0]) == expected[0]
    rows = castling.predict(best, files, top=1)
    assert [row["class"] for row in rows] == [next(iter(one)) for one in expected]

    code, out, _ = command("predict", images, "--from", best, "--top", 2, "--format", "csv")
    assert code == 0
    lines = [*csv.DictReader(io.StringIO(out))]
    assert len(lines) == 2 * 48
    found = {line["image"]: line for line in lines if line["rank"] == "1"}
    for path, one in zip(files, expected, strict=True):
        name, probability = next(iter(one.items()))
        assert found[str(path)]["class"] == name
        assert float(found[str(path)]["probability"]) == pytest.approx(probability, abs=1e-6)
    assert (
        len(json.loads(command("predict", files[0], "--from", best, "--format", "json")[1])) == 3
    )


def test_timms_transform_and_onnx_give_the_same_logits(
    best: Path, images: Path, tmp_path: Path
) -> None:
    files = [images / name / f"{number}.png" for name in CLASSES for number in range(3)]
    model = castling.load(best)
    expected = model.predict(files)
    facts = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**facts)
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
    with torch.inference_mode():
        logits = model(batch)
    preprocessing = model.predict.preprocessing
    probabilities = [[one[name] for name in CLASSES] for one in expected]
    torch.testing.assert_close(logits.softmax(1), torch.tensor(probabilities))

    write_onnx(model, tmp_path, preprocessing)
    session = onnxruntime.InferenceSession(str(tmp_path / ONNX_FILE))
    np.testing.assert_allclose(
        session.run(None, {"images": batch.numpy()})[0], logits.numpy(), atol=1e-4
    )
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["castling.classes"]) == [*CLASSES]
    stored = json.loads(metadata["castling.preprocessing"])
    assert Preprocessing.from_data(stored | {"classes": CLASSES}) == preprocessing
    assert metadata["castling.input"] == "float32 NCHW, normalised"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_graph_may_hold_the_normalisation(
    layout: str, best: Path, images: Path, tmp_path: Path
) -> None:
    model = castling.load(best)
    write_onnx(model, tmp_path, model.predict.preprocessing, layout=layout)
    session = onnxruntime.InferenceSession(str(tmp_path / ONNX_FILE))
    square = Image.open(images / "red" / "0.png").resize((16, 16))
    pixels = np.asarray(square)[None]
    pixels = pixels if layout == "nhwc" else pixels.transpose(0, 3, 1, 2)
    logits = session.run(None, {"images": np.ascontiguousarray(pixels)})[0]
    facts = model.pretrained_cfg
    scaled = (np.asarray(square) / 255 - facts["mean"]) / facts["std"]
    with torch.inference_mode():
        expected = model(torch.tensor(scaled, dtype=torch.float32).permute(2, 0, 1)[None])
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    with pytest.raises(ConfigError, match="preprocess-in-graph: needs the preprocessing"):
        write_onnx(model, tmp_path, layout=layout)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm's files
def test_timms_own_evaluation_gives_the_same_top1(tmp_path: Path, images: Path) -> None:
    """A checkpoint of timm's, castled by softmax everywhere, with timm's loader and transform."""
    torch.manual_seed(1)
    original = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=3).eval()
    torch.save({"state_dict": original.state_dict()}, tmp_path / "model_best.pth.tar")
    model = castling.convert_backbone(
        "deit_tiny_patch16_224", "softmax", image_size=32, num_classes=3,
        weights=tmp_path / "model_best.pth.tar",
    )  # fmt: skip
    castling.save(castling.castle(model), tmp_path / "best")
    facts = timm.data.resolve_model_data_config(castling.load(tmp_path / "best"))
    assert facts == {**timm.data.resolve_model_data_config(original), "input_size": (3, 32, 32)}
    loader = timm.data.create_loader(
        timm.data.create_dataset("", str(images)), batch_size=7, use_prefetcher=False,
        num_workers=0, device=torch.device("cpu"), **facts,
    )  # fmt: skip
    with torch.inference_mode():
        outputs = [(original(batch), target) for batch, target in loader]
    logits, labels = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    top1 = (logits.argmax(1) == labels).float().mean().item()
    paths = [images / name / f"{number}.png" for name in CLASSES for number in range(16)]
    found = castling.load(tmp_path / "best").predict(paths)
    numbered = torch.tensor([[one[str(number)] for number in range(3)] for one in found])
    torch.testing.assert_close(numbered, logits.softmax(1))
    result = evaluate_images(tmp_path / "best", images, device="cpu")
    assert (result.metrics["top1"], result.num_images) == (pytest.approx(top1), 48)


def test_another_folder_is_evaluated_by_the_names_of_its_classes(
    best: Path, images: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    rest = tmp_path / "rest"
    for name in ("red", "green"):
        (rest / name).mkdir(parents=True)
        for path in (images / name).iterdir():
            (rest / name / path.name).write_bytes(path.read_bytes())
    model = castling.load(best)
    paths = [path for name in ("green", "red") for path in sorted((rest / name).iterdir())]
    hits = [next(iter(model.predict(path))) == path.parent.name for path in paths]
    code, out, _ = command("evaluate", best, "--images", rest)
    assert code == 0
    assert f"32 images: top1 {np.mean(hits):.2%}" in out
    assert "1 of the model's classes have no images: blue" in out
    (rest / "red").rename(rest / "rad")
    code, _, message = command("evaluate", best, "--images", rest)
    assert code == 2
    assert "classes that the model does not have: rad" in message


def test_an_evaluation_sees_that_images_changed(images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images"
    for name in CLASSES:
        (copy / name).mkdir(parents=True)
        for path in sorted((images / name).iterdir())[:12]:
            (copy / name / path.name).write_bytes(path.read_bytes())
    best = trained(copy, tmp_path / "best")
    assert evaluate_folder(best).changed == ""
    for path in (copy / "red").glob("1*.png"):
        path.unlink()
    assert "validation had" in evaluate_folder(best).changed


def test_an_old_export_is_computed_from_its_images_or_refused(
    best: Path, images: Path, tmp_path: Path
) -> None:
    data = read_yaml(best / "config.yaml")
    old = tmp_path / "old"
    castling.save(castling.load(best), old)
    first = images / "red" / "0.png"
    write_yaml(old / "config.yaml", {k: v for k, v in data.items() if k != "preprocessing"})
    assert castling.predict(old, first)[0]["class"] == castling.predict(best, first)[0]["class"]
    with pytest.raises(ConfigError, match="preprocessing: is required to predict"):
        castling.load(old).predict(first)
    gone = {"data": {**data["data"], "name": "folder:gone"}, "model": data["model"]}
    write_yaml(old / "config.yaml", gone)
    with pytest.raises(ConfigError, match="cannot be computed from the training images"):
        castling.predict(old, first)


NONSENSE = {
    "std": {"std": [0.0, 1.0, 1.0]},
    "channels": {"channels": 1, "mean": [0.5], "std": [0.5]},
    "size": {"image_size": [32, 32]},
    "words": {"mean": ["many", 0.1, 0.2]},
    "names": {"classes": ["a", "a", "b"]},
    "too few names": {"classes": ["a", "b"]},
    "infinite": {"mean": [float("inf"), 0.0, 0.0]},
    "mode": {"crop_mode": "stretch"},
    "list": None,
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_edited_preprocessing_is_refused_in_one_sentence(
    kind: str, best: Path, images: Path, tmp_path: Path
) -> None:
    castling.save(castling.load(best), tmp_path / "edited")
    data = read_yaml(best / "config.yaml")
    change = NONSENSE[kind]
    data["preprocessing"] = [1] if change is None else {**data["preprocessing"], **change}
    write_yaml(tmp_path / "edited" / "config.yaml", data)
    with pytest.raises(ConfigError, match=r"preprocessing|image_size|classes") as caught:
        castling.predict(tmp_path / "edited", images / "red" / "0.png")
    assert "\n" not in str(caught.value)


def test_pictures_of_every_mode_and_size_are_predicted(best: Path, tmp_path: Path) -> None:
    model = castling.load(best)
    upright = picture(0, 3)
    expected = model.predict(upright)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[274] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    assert model.predict([turned, tmp_path / "turned.png"]) == [expected, expected]
    for mode in ("CMYK", "RGBA", "L", "LA", "P", "1", "I", "F", "YCbCr"):
        assert len(model.predict(upright.convert(mode))) == 3, mode
    assert len(model.predict(Image.new("RGB", (1, 1)))) == 3
    assert model.predict([]) == []
    for wrong in (3, None, np.zeros((4, 4, 3)), [3]):
        with pytest.raises(ConfigError, match="pictures: must be"):
            model.predict(wrong)
    with pytest.raises(ConfigError, match="top: must be at least 1"):
        model.predict(upright, top=0)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match="no readable image"):
        model.predict(tmp_path / "text.jpg")


def test_unreadable_files_are_named_and_the_others_predicted(
    best: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    assert command("predict", folder, "--from", best)[0] == 2
    picture(2, 1).save(folder / "a.png")
    (folder / "b.jpg").write_text("no image")
    code, out, message = command("predict", folder, "--from", best)
    assert (code, len(out.splitlines())) == (0, 1)
    assert "b.jpg is no readable image" in message
    for arguments in (
        (folder / "b.jpg", "--from", best),
        (folder / "none.png", "--from", best),
        (folder / "a.png", "--from", folder),
        (folder / "a.png", "--from", best, "--format", "xml"),
        (folder / "a.png", "--from", best, "--device", "warp"),
    ):
        code, _, message = command("predict", *arguments)
        assert (code, len(message.strip().splitlines())) == (2, 1), message


def test_a_copy_of_a_loaded_model_predicts_by_its_own_weights(best: Path, tmp_path: Path) -> None:
    model = castling.load(best)
    copy = castling.castle(model)
    torch.nn.init.zeros_(copy.head.weight)
    torch.nn.init.zeros_(copy.head.bias)
    assert [*copy.predict(picture(0, 0)).values()] == pytest.approx([1 / 3] * 3)
    assert max(model.predict(picture(0, 0)).values()) > 0.34
    castling.save(model, tmp_path)
    assert castling.load(tmp_path).predict(picture(0, 0)) == model.predict(picture(0, 0))


def test_pictures_of_digits_are_predicted_as_in_the_evaluation(tmp_path: Path) -> None:
    run = RunConfig.from_data({"train": {"epochs": 4}, "data": {"num_train": 300}})
    write_yaml(tmp_path / "c.yaml", run.to_data())
    metrics = train_config(tmp_path / "c.yaml", tmp_path / "best")
    validation = training_data(run).validation
    assert isinstance(validation, Split)
    pictures = [Image.fromarray(image[0]) for image in validation.images]
    found = [int(next(iter(one))) for one in castling.load(tmp_path / "best").predict(pictures)]
    assert np.mean(np.array(found) == validation.labels) == metrics.validation["top1"] > 0.15
    pictures[0].save(tmp_path / "digit.png")
    assert castling.predict(tmp_path / "best", tmp_path / "digit.png")[0]["class"] == str(found[0])
