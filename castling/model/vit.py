"""CastlingViT: a vision transformer whose every layer follows its own BlockConfig."""

import torch
from jaxtyping import Float
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

from castling.config import BlockConfig, ModelConfig
from castling.operators import OPERATORS, TokenGrid
from castling.operators.auxiliary import branches
from castling.operators.spec import LayerShape


def token_grid(config: ModelConfig) -> TokenGrid:
    """Return the tokens of the model: the patches and, where pooling needs it, a class token."""
    height, width = config.image_size
    return TokenGrid(
        height=height // config.patch_size,
        width=width // config.patch_size,
        num_prefix=int(config.pooling == "cls"),
    )


def layer_shape(config: ModelConfig, block: BlockConfig) -> LayerShape:
    """Return the layer that an operator is built for and priced at."""
    return LayerShape(
        block=block,
        embed_width=config.embed_width,
        grid=token_grid(config),
        qkv_bias=config.qkv_bias,
    )


def mlp_width(embed_width: int, block: BlockConfig) -> int:
    """Return the hidden channels of a block's MLP."""
    return max(1, int(embed_width * block.mlp_ratio))


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
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: x + operator(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: ModelConfig, block: BlockConfig) -> None:
        super().__init__()
        width = config.embed_width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = OPERATORS[block.operator].build(layer_shape(config, block))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, mlp_width(width, block))
        self.drop_path = DropPath(block.drop_path) if block.drop_path > 0.0 else nn.Identity()

    def forward(self, x: Float[Tensor, "batch token embed"]) -> Float[Tensor, "batch token embed"]:
        """Mix tokens, then channels."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CastlingViT(nn.Module):
    """A vision transformer built from a ModelConfig; parameter names are timm's.

    With `softmax` in every block and the attention width equal to the embed width it is timm's
    VisionTransformer, and loads its weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_width
        self.patch_embed = PatchEmbedding(config)
        if config.pooling == "cls":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, token_grid(config).num_tokens, width))
        self.blocks = nn.ModuleList(Block(config, block) for block in config.blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, config.num_classes)
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

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Return logits (batch, class) of images (batch, channel, height, width)."""
        x = self.patch_embed(images)
        if self.config.pooling == "cls":
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.config.pooling == "cls" else x.mean(dim=1))

    def set_progress(self, progress: float) -> None:
        """Move every layer's mask schedule to a fraction of training, 0 to 1."""
        for branch in branches(self):
            branch.set_progress(progress)


def build(config: ModelConfig, *, seed: int | None = None) -> CastlingViT:
    """Build the training model of a config, in training mode.

    Args:
        config: the model.
        seed: seed of the initial weights; None draws from torch's global generator.
    """
    if seed is None:
        return CastlingViT(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CastlingViT(config)
