"""The switch: from the training model to the inference model, without the auxiliary branch."""

from castling.model.vit import CastlingViT, build
from castling.operators.auxiliary import branches


def castle(model: CastlingViT) -> CastlingViT:
    """Return the inference model of a training model: in eval mode, no branch left.

    Weights are copied; parameters and graph hold no trace of the auxiliary branch. Once the
    training model's masks are empty, its logits in eval mode are the castled model's, bit for bit.
    """
    parameter = next(model.parameters())
    castled = build(model.config.castled(), seed=0).to(parameter.device, parameter.dtype)
    weights = model.state_dict()
    castled.load_state_dict({name: weights[name] for name in castled.state_dict()})
    return castled.eval()


def is_castled(model: CastlingViT) -> bool:
    """Return whether the model has no training-only branch."""
    return not branches(model)
