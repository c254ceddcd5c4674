"""Is a castled model faster? DeiT-T's shape, castled, against timm's deit_tiny.

    python benchmarks/model.py [--seconds 5] [--device cuda]

CastlingViT of width 192 with 12 layers of 3 heads, linear-angular attention with nine taps in
each, against deit_tiny_patch16_224 with fused attention, at 224 and 512 pixels: images per second
of the same batch, one thread, medians of interleaved calls, every ratio of one run. Eager,
compiled (torch.compile, one shape), and exported to onnxruntime.
"""

import argparse
from collections.abc import Callable

import onnxruntime
import timm
import torch
from measuring import compiled, medians
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from castling.config import BlockConfig, ModelConfig
from castling.model.build import build
from castling.model.castle import castle


GOALS = {(224, 16): 1.0, (512, 4): 1.5}
"""Pixels and images of a batch, and how many times as fast the castled model is to be."""


def castling_tiny(pixels: int) -> nn.Module:
    """Return DeiT-T's shape with linear-angular attention in every layer, castled."""
    layer = BlockConfig(
        operator="linear_angular",
        num_heads=3,
        head_size=64,
        mlp_ratio=4.0,
        conv_kernel=9,
        conv_form="tokens",
        conv_filters="head",
    )
    config = ModelConfig(
        image_size=(pixels, pixels),
        patch_size=16,
        channels=3,
        num_classes=1000,
        embed_width=192,
        pooling="cls",
        blocks=(layer,) * 12,
    )
    return castle(build(config, seed=0)).eval()


def by_onnxruntime(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return a call of the model's ONNX graph, on one thread of the CPU."""
    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, given)


def calls(model: nn.Module, images: Tensor, device: str) -> dict[str, Callable[[], object]]:
    """Return forward passes of a model by how they run."""
    made = {}
    if device == "cpu":
        made["onnxruntime"] = by_onnxruntime(model, images)
    model, images = model.to(device), images.to(device)
    fast = compiled(model)
    return {"eager": lambda: model(images), "compiled": lambda: fast(images), **made}


def main() -> None:
    """Time both models every way, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="spent on each model and way")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(box=None, title="images per second", title_justify="left")
    for column in ("pixels x batch", "way", "deit_tiny", "castling", "speed (asked)"):
        table.add_column(column, justify="right")
    for (pixels, batch), asked in GOALS.items():
        stock = timm.create_model("deit_tiny_patch16_224", img_size=pixels).eval()
        images = torch.randn(batch, 3, pixels, pixels)
        with torch.inference_mode():
            theirs = calls(stock, images, arguments.device)
            ours = calls(castling_tiny(pixels), images, arguments.device)
            for way, ours_call in ours.items():
                times = medians(
                    {"theirs": theirs[way], "ours": ours_call},
                    seconds=arguments.seconds,
                    device=arguments.device,
                )
                rates = {name: 1e3 * batch / time for name, time in times.items()}
                speed = rates["ours"] / rates["theirs"]
                table.add_row(
                    f"{pixels} x {batch}",
                    way,
                    f"{rates['theirs']:.1f}",
                    f"{rates['ours']:.1f}",
                    f"{speed:.2f} ({asked}){'' if speed >= asked else ' no'}",
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
