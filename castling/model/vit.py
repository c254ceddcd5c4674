"""CastlingViT: a vision transformer with a separate BlockConfig for every layer."""

from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn

from castling.blocks.mlp import MLPS
from castling.blocks.parts import BRANCH_PARTS, block_cost, vit_cost
from castling.config import ModelConfig
from castling.costs.count import check_params
from castling.model.sizes import check_image_size
from castling.operators import OPERATORS
from castling.operators.spec import LayerShape, layer_shapes


class PatchEmbedding(nn.Module):
    """Images to tokens: a convolution whose stride is its kernel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(config.channels, config.embed_width, kernel_size=patch, stride=patch)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch token embed"]:
        """Cut images (batch, channel, height, width) into tokens, row by row."""
        return self.proj(images).flatten(2).transpose(1, 2).contiguous()


class Block(nn.Module):
    """Pre-norm transformer block: x + operator(norm(x)), then x + MLP(norm(x)).

    Before it is added to x, the output of operator and of MLP passes through the `BRANCH_PARTS`.

    Raises:
        CostMismatchError: when the number of parameters differs from the closed form.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block, width = shape.block, shape.embed_width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = OPERATORS[block.operator].build(shape)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLPS[block.mlp].build(shape)
        self.after1, self.after2 = _branch_parts(shape), _branch_parts(shape)
        name = f"block {shape.index} ({block.operator}, {block.mlp} MLP)"
        check_params(self, block_cost(shape).params, name)

    def forward(self, x: Float[Tensor, "batch token embed"]) -> Float[Tensor, "batch token embed"]:
        """Mix tokens, then channels."""
        x = x + self.after1(self.attn(self.norm1(x)))
        return x + self.after2(self.mlp(self.norm2(x)))


def _branch_parts(shape: LayerShape) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict((name, part.build(shape)) for name, part in BRANCH_PARTS.items())
    )


class CastlingViT(nn.Module):
    """A vision transformer built from a ModelConfig; parameter names are timm's.

    With `softmax` in every block and the attention width equal to the embed width it is timm's
    VisionTransformer, and loads its weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_prefix_tokens = int(config.pooling == "cls")
        width, shapes = config.embed_width, layer_shapes(config)
        self.patch_embed = PatchEmbedding(config)
        if config.pooling == "cls":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shapes[0].grid.num_tokens, width))
        self.blocks = nn.ModuleList(Block(shape) for shape in shapes)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, config.num_classes)
        check_params(self, vit_cost(config).params, "the model")
        self._init_weights()

    def _init_weights(self) -> None:
        trunc_normal_(self.pos_embed, std=0.02)
        if self.config.pooling == "cls":
            nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        trunc_normal_(self.head.weight, std=0.02)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - timm's signature
        """Return which parameters are of which layer, as timm's models do for layer decay."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Return logits (batch, class) of images (batch, channel, height, width)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch token embed"]:
        """Return the tokens that the classifier sees, a class token first if there is one.

        Raises:
            ConfigError: when the images are not of the model's size.
        """
        check_image_size(images, self.config.image_size)
        x = self.patch_embed(images)
        if self.config.pooling == "cls":
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(
        self, tokens: Float[Tensor, "batch token embed"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Return logits (batch, class) of tokens (batch, token, channel)."""
        return self.head(tokens[:, 0] if self.config.pooling == "cls" else tokens.mean(dim=1))
