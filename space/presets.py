"""Named spaces: what `castling search` searches unless a recipe says otherwise."""

from collections.abc import Callable
from typing import Any

from castling.config import (
    AugmentConfig,
    BlockConfig,
    DataConfig,
    LayerChoice,
    MaskSchedule,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from castling.model.backbone import backbone_config
from castling.registry import Registry
from space.catalogue import catalogue, changed
from space.domain import Choice, FloatRange, IntRange
from space.point import BLOCKS, DEPTH, Dimension, Space, Tie


SPACES: Registry[Callable[[], Space]] = Registry("space", entry_points="castling.spaces")


def _per_attention(tie: Tie) -> list[Dimension]:
    """Return the choices of every attention layer: operator, convolution, mask schedule."""
    known = catalogue()
    return [
        changed(known[f"{BLOCKS}operator"], Choice(("linear_angular", "softmax")), tie),
        changed(known[f"{BLOCKS}conv_kernel"], IntRange(3, 9, 2), tie),
        changed(known[f"{BLOCKS}conv_form"], Choice(("tokens", "grid")), tie),
        changed(known[f"{BLOCKS}mask.shape"], Choice(("linear", "cosine", "step")), "stage"),
        known[f"{BLOCKS}mask.start_multiple"],
        changed(known[f"{BLOCKS}mask.end"], FloatRange(0.25, 0.9)),
    ]


def _per_layer(ratios: tuple[float, ...], sizes: tuple[int, ...], tie: Tie) -> list[Dimension]:
    """Return the choices of every block: operator, convolution, attention width, MLP, mask."""
    known = catalogue()
    operator, kernel, form, *mask = _per_attention(tie)
    return [
        operator,
        kernel,
        form,
        changed(known[f"{BLOCKS}num_heads"], IntRange(1, 4), tie),
        changed(known[f"{BLOCKS}head_size"], Choice(sizes), "stage"),
        changed(known[f"{BLOCKS}mlp_ratio"], Choice(ratios), tie),
        *mask,
    ]


@SPACES.register("digits")
def digits() -> Space:
    """Small transformers for 8 x 8 images: 16 tokens, up to 4 blocks."""
    known = catalogue()
    block = BlockConfig(num_heads=3, head_size=16, conv_kernel=3, conv_form="grid", mlp_ratio=2.0)
    return Space(
        name="digits",
        base=RunConfig(
            model=ModelConfig(
                image_size=(8, 8), patch_size=2, embed_width=48, blocks=(block,) * 3
            ),
            train=TrainConfig(
                epochs=40, augment=AugmentConfig(shift=0.1, rotate=10.0, scale=0.1), batch_size=64
            ),
        ),
        dimensions=(
            changed(known["model.embed_width"], IntRange(16, 64, 8)),
            changed(known[DEPTH], IntRange(2, 4)),
            *_per_layer(ratios=(1.0, 2.0, 3.0), sizes=(8, 16), tie="each"),
            changed(known["train.learning_rate"], FloatRange(1e-3, 8e-3, log=True)),
            known["train.weight_decay"],
        ),
    )


@SPACES.register("fashion-mnist")
def fashion_mnist() -> Space:
    """Transformers for 28 x 28 images: 49 tokens, up to 6 blocks."""
    known = catalogue()
    block = BlockConfig(num_heads=4, head_size=16, conv_kernel=3, conv_form="grid", mlp_ratio=2.0)
    return Space(
        name="fashion-mnist",
        base=RunConfig(
            model=ModelConfig(
                image_size=(28, 28), patch_size=4, embed_width=64, blocks=(block,) * 4
            ),
            train=TrainConfig(
                epochs=8,
                batch_size=64,
                learning_rate=2e-3,
                augment=AugmentConfig(shift=0.05, flip=True),
            ),
            data=DataConfig(name="fashion-mnist"),
        ),
        dimensions=(
            changed(known["model.embed_width"], IntRange(24, 96, 8)),
            changed(known[DEPTH], IntRange(2, 6)),
            *_per_layer(ratios=(1.0, 2.0, 3.0), sizes=(8, 16, 24), tie="each"),
            changed(known["train.learning_rate"], FloatRange(5e-4, 5e-3, log=True)),
            known["train.weight_decay"],
        ),
    )


@SPACES.register("imagenet")
def imagenet() -> Space:
    """Transformers around DeiT-T for 224 x 224 images: 197 tokens, up to 12 blocks."""
    known = catalogue()
    block = BlockConfig(
        num_heads=3,
        head_size=64,
        conv_kernel=9,
        mlp_ratio=4.0,
        mask=MaskSchedule(start_multiple=4.0),
        drop_path=0.05,
    )
    return Space(
        name="imagenet",
        base=RunConfig(
            model=ModelConfig(
                image_size=(224, 224),
                channels=3,
                num_classes=1000,
                patch_size=16,
                embed_width=192,
                pooling="cls",
                blocks=(block,) * 12,
            ),
            train=TrainConfig(
                epochs=100,
                batch_size=256,
                learning_rate=1e-3,
                augment=AugmentConfig(shift=0.1, scale=0.3, flip=True, erase=0.25),
            ),
            data=DataConfig(name="folder:imagenet"),
        ),
        dimensions=(
            changed(known["model.embed_width"], IntRange(128, 256, 32)),
            changed(known[DEPTH], IntRange(8, 12)),
            *_per_layer(ratios=(2.0, 3.0, 4.0), sizes=(32, 48, 64), tie="each"),
            changed(known["train.learning_rate"], FloatRange(5e-4, 2e-3, log=True)),
            known["train.weight_decay"],
        ),
        num_stages=3,
    )


def _backbone(
    name: str, backbone: str, num_stages: int, train: TrainConfig, **options: Any
) -> Space:
    """Return the space of a model of timm: what each of its attention layers may become."""
    known = catalogue()
    choice = LayerChoice(mask=MaskSchedule(start_multiple=4.0))
    return Space(
        name=name,
        base=RunConfig(
            model=backbone_config(backbone, choice, **options),
            train=train,
            data=DataConfig(name="folder:imagenet"),
        ),
        dimensions=(
            *_per_attention("each"),
            changed(known["train.learning_rate"], FloatRange(2e-4, 2e-3, log=True)),
            known["train.weight_decay"],
        ),
        num_stages=num_stages,
    )


_TRAIN = TrainConfig(
    epochs=100,
    batch_size=256,
    learning_rate=1e-3,
    augment=AugmentConfig(shift=0.1, scale=0.3, flip=True, erase=0.25),
)


_LEVIT = _TRAIN.replace(weight_decay=0.025, learning_rate=5e-4)


@SPACES.register("deit_tiny")
def deit_tiny() -> Space:
    """DeiT-T of timm, 224 x 224: which of its 12 layers castle, and how."""
    return _backbone("deit_tiny", "deit_tiny_patch16_224", 3, _TRAIN, drop_path_rate=0.1)


@SPACES.register("deit_small")
def deit_small() -> Space:
    """DeiT-S of timm, 224 x 224: which of its 12 layers castle, and how."""
    return _backbone("deit_small", "deit_small_patch16_224", 3, _TRAIN, drop_path_rate=0.1)


@SPACES.register("levit_128")
def levit_128() -> Space:
    """LeViT-128 of timm, 224 x 224: 12 layers and 2 downsamplings."""
    return _backbone("levit_128", "levit_128", 3, _LEVIT)


@SPACES.register("levit_256")
def levit_256() -> Space:
    """LeViT-256 of timm, 224 x 224: 12 layers and 2 downsamplings."""
    return _backbone("levit_256", "levit_256", 3, _LEVIT)


@SPACES.register("mvitv2_tiny")
def mvitv2_tiny() -> Space:
    """MViTv2-T of timm, 224 x 224: 10 layers with pooled keys, 3136 to 49 queries."""
    return _backbone("mvitv2_tiny", "mvitv2_tiny", 4, _TRAIN, drop_path_rate=0.1)


@SPACES.register("swin_tiny")
def swin_tiny() -> Space:
    """Swin-T of timm, 224 x 224: 12 layers, castled over the whole map instead of windows."""
    return _backbone("swin_tiny", "swin_tiny_patch4_window7_224", 4, _TRAIN, drop_path_rate=0.2)
