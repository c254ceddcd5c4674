"""Gated layers settle: each becomes the operator or the narrower MLP that its gates decide for."""

from castling.config import BlockConfig, ModelConfig
from castling.model.mlp import ShrinkingMlp
from castling.model.vit import Block, CastlingViT, build
from castling.operators.gates import gated
from castling.operators.spvit_gated import GatedSinglePath


def settle(model: CastlingViT) -> CastlingViT:
    """Return the model without gates: the same logits in eval mode, at the cost that was chosen.

    Weights are copied, training-only branches stay. A model without gates is returned as it is.
    """
    if not gated(model):
        return model
    parameter = next(model.parameters())
    config = settled_config(model.config, model)
    settled = build(config, seed=0).to(parameter.device, parameter.dtype)
    weights = model.state_dict()
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for name, part in (("attn", block.attn), ("mlp", block.mlp)):
            if not isinstance(part, GatedSinglePath | ShrinkingMlp):
                continue
            prefix = f"blocks.{index}.{name}."
            weights = {key: value for key, value in weights.items() if not key.startswith(prefix)}
            state = part.settled()[1] if isinstance(part, GatedSinglePath) else part.settled()
            weights |= {f"{prefix}{key}": value for key, value in state.items()}
    settled.load_state_dict(weights)
    return settled.train(model.training)


def settled_config(config: ModelConfig, model: CastlingViT) -> ModelConfig:
    """Return a config with the gated parts of its blocks as a model's gates decide."""
    blocks = [
        _settled_block(block, layer, config.embed_width)
        for block, layer in zip(config.blocks, model.blocks, strict=True)
        if isinstance(layer, Block)
    ]
    return config.replace(blocks=tuple(blocks))


def _settled_block(block: BlockConfig, layer: Block, width: int) -> BlockConfig:
    if isinstance(layer.attn, GatedSinglePath):
        operator = layer.attn.settled()[0]
        options = block.options if operator.startswith("spvit") else {}
        block = block.replace(operator=operator, options=options)
    if isinstance(layer.mlp, ShrinkingMlp):
        kept = int(layer.mlp.kept().sum())
        block = block.replace(mlp="plain", mlp_ratio=(kept + 0.5) / width)
    return block
