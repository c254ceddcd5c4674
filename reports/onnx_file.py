"""Writes a model as ONNX, with the preprocessing of its images as metadata or inside the graph."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from castling.config import DEFAULT_TASK, Preprocessing
from castling.errors import CheckpointError, ConfigError
from castling.model.build import config_of


ONNX_FILE = "model.onnx"
ONNX_TOLERANCE = 1e-4
"""Largest difference of logits between the exported ONNX file and the model."""
PREFIX = "castling."
"""Begins the keys of our metadata: castling.preprocessing, castling.classes, castling.task and
castling.input; the values of the first two are JSON."""
Layout = Literal["nchw", "nhwc"]
"""Axes of uint8 images whose preprocessing is inside the graph."""


def check_onnx(layout: str | None = None) -> None:
    """Raise ConfigError unless the packages that write and run ONNX are installed.

    Args:
        layout: of images whose preprocessing is inside the graph; None without.
    """
    if layout is not None and layout not in get_args(Layout):
        rule = f"must be one of {', '.join(get_args(Layout))}"
        raise ConfigError("--preprocess-in-graph", rule, layout)
    try:
        for package in ("onnxruntime", "onnxscript"):
            import_module(package)
    except ImportError as error:
        raise ConfigError(
            "--onnx",
            f"needs a package that is missing ({error.name})",
            fix="pip install 'castling-nas[onnx]'",
        ) from None


class Prepared(nn.Module):
    """A model with the scaling and normalisation of its images: uint8 pixels to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name))[:, None, None]
            self.register_buffer(name, values)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, class) of pixels, uint8, with axes as the layout says."""
        if self.layout == "nhwc":
            images = images.permute(0, 3, 1, 2)
        return self.model((images.float() / 255.0 - self.mean) / self.std)


def write_onnx(
    model: nn.Module,
    out: Path,
    preprocessing: Preprocessing | None = None,
    *,
    task: str = DEFAULT_TASK,
    layout: Layout | None = None,
) -> None:
    """Write model.onnx with a free batch axis, and check that it gives the model's logits.

    Args:
        model: castled, on the CPU.
        out: the folder to write to.
        preprocessing: stored as metadata, with the names of the classes.
        task: by its name, stored too.
        layout: with one the input is uint8 pixels of the model's size with these axes, and scaling
            and normalisation are part of the graph; without, the input is normalised float32.

    Raises:
        CheckpointError: when ONNX Runtime gives other logits.
    """
    config = config_of(model)
    shape = (2, config.channels, *config.image_size)
    generator = torch.Generator().manual_seed(0)
    whole, images = model, torch.randn(shape, generator=generator)
    words = "float32 NCHW, normalised"
    if layout is not None:
        if preprocessing is None:
            rule = "needs the preprocessing of the model, which is not stored"
            raise ConfigError("--preprocess-in-graph", rule)
        whole = Prepared(model, preprocessing, layout).eval()
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        if layout == "nhwc":
            images = images.permute(0, 2, 3, 1).contiguous()
        words = f"uint8 {layout.upper()}, pixels"
    program = torch.onnx.export(
        whole,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(preprocessing, task, words))
    program.save(str(out / ONNX_FILE))
    _check_logits(whole, images, out / ONNX_FILE)


def _metadata(preprocessing: Preprocessing | None, task: str, words: str) -> dict[str, str]:
    """Return the entries of ONNX's metadata_props."""
    entries = {f"{PREFIX}task": task, f"{PREFIX}input": words}
    if preprocessing is not None:
        data = preprocessing.to_data()
        entries[f"{PREFIX}classes"] = json.dumps(data.pop("classes"))
        entries[f"{PREFIX}preprocessing"] = json.dumps(data)
    return entries


def _check_logits(model: nn.Module, images: Tensor, path: Path) -> None:
    import numpy as np
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        logits = session.run(None, {"images": batch.numpy()})[0]
        with torch.inference_mode():
            difference = float(np.abs(logits - model(batch).numpy()).max())
        if not difference <= ONNX_TOLERANCE:
            raise CheckpointError(str(path), f"its logits differ by {difference:.1e}")
