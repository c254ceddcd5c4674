"""The distillation loss: a teacher's logits, the outputs of its layers, its tokens."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import trunc_normal_
from torch import Tensor, nn

from castling.config import Architecture, DistillConfig
from castling.errors import ConfigError
from castling.model.adapters.sites import examine
from castling.model.architecture import architecture_of
from castling.model.build import config_of


SMALLEST_ENERGY = 1e-12
"""Squared norm of a teacher's layer output that its distance is divided by at least."""


class Distillation(nn.Module):
    """The distillation loss; its only parameters are SUN's token classifier, if token_weight > 0.

    The loss is `weight` x logits + `layer_weight` x layers + `token_weight` x tokens, each term as
    the functions below define it. The token classifier is trained together with the model and is
    not exported.
    """

    model: nn.Module
    teacher: nn.Module
    layers: tuple[list[nn.Module], list[nn.Module]]
    """Attention layers of model and teacher whose outputs are compared; none if layer_weight is 0.
    """

    def __init__(
        self, config: DistillConfig, model: nn.Module, teacher: nn.Module, seed: int
    ) -> None:
        """Pair layers and tokens by the shapes that they have for a blank image.

        Args:
            config: the weights of the losses.
            model: the student.
            teacher: in eval mode and without gradients; of the same classes and images.
            seed: seed of the token classifier's initial weights.

        Raises:
            ConfigError: when layers or tokens must be compared and do not pair.
        """
        super().__init__()
        self.config = config
        layers = _paired_layers(model, teacher) if config.layer_weight > 0.0 else ([], [])
        # Not as submodules: neither parameters nor state of this module include theirs.
        vars(self).update(model=model, teacher=teacher, layers=layers)
        if config.token_weight > 0.0:
            self.local = _local_head(model, teacher, seed)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch num_classes"], Float[Tensor, ""]]:
        """Return the model's logits (batch, class) and the distillation loss."""
        config = self.config
        with outputs_of(self.layers[0]) as outputs:
            features, logits = self._run(self.model, images)
        with torch.no_grad(), outputs_of(self.layers[1]) as teacher_outputs:
            teacher_features, teacher_logits = self._run(self.teacher, images)
        loss = config.weight * logits_loss(logits, teacher_logits, config)
        if outputs:
            loss = loss + config.layer_weight * layers_loss(outputs, teacher_outputs)
        if features is not None and teacher_features is not None:
            loss = loss + config.token_weight * self._tokens_loss(features, teacher_features)
        return logits, loss

    def _run(self, model: Any, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return features and logits; no features if token_weight is 0."""
        if self.config.token_weight == 0.0:
            return None, model(images)
        features = model.forward_features(images)
        return features, model.forward_head(features)

    def _tokens_loss(self, features: Tensor, teacher_features: Tensor) -> Tensor:
        """Return the token classifier's cross entropy with SUN's targets, the mean over tokens."""
        with torch.no_grad():
            targets = token_targets(token_logits(self.teacher, teacher_features), self.config)
        logits = self.local(tokens_of(self.model, features))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(0, 1))


def logits_loss(
    logits: Float[Tensor, "batch num_classes"],
    teacher_logits: Float[Tensor, "batch num_classes"],
    config: DistillConfig,
) -> Float[Tensor, ""]:
    """Return DeiT's distillation loss, the mean over images.

    soft: T^2 KL(softmax(teacher / T) || softmax(student / T)); hard: cross entropy of the student
    with the teacher's argmax.

    Args:
        logits: the student's.
        teacher_logits: the teacher's.
        config: form and temperature.
    """
    logits, teacher_logits = logits.float(), teacher_logits.float()
    if config.form == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(dim=1))
    student = (logits / config.temperature).log_softmax(dim=1)
    teacher = (teacher_logits / config.temperature).log_softmax(dim=1)
    distance = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return config.temperature**2 * distance


def layers_loss(outputs: Sequence[Tensor], teacher_outputs: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the mean over layers of |student - teacher|^2 / |teacher|^2, norms over the batch.

    Relative, so that layers of small and of large outputs count alike; the form is ours.
    """
    distances = [
        (student.float() - teacher.float()).square().sum()
        / teacher.float().square().sum().clamp_min(SMALLEST_ENERGY)
        for student, teacher in zip(outputs, teacher_outputs, strict=True)
    ]
    return torch.stack(distances).mean()


def token_targets(
    logits: Float[Tensor, "batch token num_classes"], config: DistillConfig
) -> Float[Tensor, "batch token num_classes_and_background"]:
    """Return SUN's soft labels of tokens; the last class is background.

    The `token_top` most probable classes, made to sum to 1, smoothed; the tokens of the batch
    whose highest probability is lowest are background. Whether background takes part in the
    smoothing is left open by the paper: here it does.

    Args:
        logits: the teacher's classifier of each of its tokens.
        config: top, smoothing and the fraction that is background.
    """
    probabilities = logits.float().softmax(dim=-1)
    top = probabilities.topk(min(config.token_top, logits.shape[-1]), dim=-1)
    top_only = torch.zeros_like(probabilities).scatter(
        -1, top.indices, top.values / top.values.sum(dim=-1, keepdim=True)
    )
    targets = F.pad(top_only, (0, 1))
    confidence = top.values[..., 0].flatten()
    num_background = int(config.token_background * len(confidence))
    unsure = confidence.topk(num_background, largest=False).indices
    is_background = torch.zeros_like(confidence, dtype=torch.bool)
    is_background[unsure] = True
    background = F.pad(torch.zeros_like(targets[..., :-1]), (0, 1), value=1.0)
    targets = torch.where(is_background.view(*targets.shape[:2], 1), background, targets)
    return (1.0 - config.token_smoothing) * targets + config.token_smoothing / targets.shape[-1]


def token_logits(
    model: Any, features: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch token num_classes"]:
    """Return a model's logits for each token, as for an image that consists of that token."""
    tokens = tokens_of(model, features)
    batch, num_tokens, width = tokens.shape
    if features.ndim == 3:  # the class tokens, too, are that token, whichever the classifier reads
        alone = tokens.reshape(-1, 1, width).expand(-1, 1 + _num_prefix(model), -1)
    elif _is_channels_last(model):
        alone = tokens.reshape(-1, 1, 1, width)
    else:
        alone = tokens.reshape(-1, width, 1, 1)
    return model.forward_head(alone).unflatten(0, (batch, num_tokens))


def tokens_of(
    model: nn.Module, features: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch token width"]:
    """Return a model's image tokens, by rows, from the result of its `forward_features`.

    Args:
        model: whose features they are.
        features: (batch, token, channel), class tokens first; or a map, channels last for Swin
            and its like, first for convolutional networks.
    """
    if features.ndim == 3:
        return features[:, _num_prefix(model) :]
    if _is_channels_last(model):
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def _num_prefix(model: nn.Module) -> int:
    return int(getattr(model, "num_prefix_tokens", 0))


def _is_channels_last(model: nn.Module) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


@contextmanager
def outputs_of(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of layers while the context is open, in the order of the layers."""
    outputs: dict[int, Tensor] = {}
    collected: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, output, index=index: outputs.update(
                {index: output[0] if isinstance(output, tuple) else output}
            )
        )
        for index, layer in enumerate(layers)
    ]
    try:
        yield collected
    finally:
        for hook in hooks:
            hook.remove()
        collected.extend(outputs[index] for index in sorted(outputs))


def attention_layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[nn.Module]:
    """Return a model's attention layers, first to last.

    Args:
        model: a CastlingViT, or a model of timm, converted or not.
        image_shape: (channel, height, width).

    Raises:
        ConfigError: when no adapter recognises an attention of the model.
    """
    config = getattr(model, "config", None)
    if isinstance(config, Architecture):
        paths = architecture_of(config).attention_paths()
    else:
        try:
            sites = examine(copy.deepcopy(model).to("meta"), type(model).__name__, image_shape)
        except ConfigError as error:
            rule = f"must be 0 for a teacher without attention that castling knows ({error.rule})"
            raise ConfigError("train.distill.layer_weight", rule) from None
        paths = [layer.name for layer in sites.layers]
    return [model.get_submodule(path) for path in paths]


def _paired_layers(
    model: nn.Module, teacher: nn.Module
) -> tuple[list[nn.Module], list[nn.Module]]:
    image = _blank_image(model)
    shapes = []
    channels, height, width = image.shape[1:]
    layers = [attention_layers(part, (channels, height, width)) for part in (model, teacher)]
    for part, attentions in zip((model, teacher), layers, strict=True):
        with outputs_of(attentions) as outputs:
            _features(part, image)
        shapes.append([tuple(output.shape[1:]) for output in outputs])
    if shapes[0] != shapes[1]:
        raise ConfigError(
            "train.distill.layer_weight",
            f"must be 0 for a teacher whose {_described(shapes[1])} do not pair with the model's "
            f"{_described(shapes[0])}",
        )
    return layers[0], layers[1]


def _described(shapes: Sequence[tuple[int, ...]]) -> str:
    return f"{len(shapes)} attention layers of {' '.join(map(str, dict.fromkeys(shapes)))}"


def _local_head(model: nn.Module, teacher: nn.Module, seed: int) -> nn.Linear:
    """Return SUN's token classifier: linear, with an extra class for background."""
    image = _blank_image(model)
    tokens, others = (tokens_of(part, _features(part, image)) for part in (model, teacher))
    if tokens.shape[1] != others.shape[1]:
        raise ConfigError(
            "train.distill.token_weight",
            f"must be 0 for a teacher of {others.shape[1]} tokens where the model has "
            f"{tokens.shape[1]}",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(tokens.shape[2], config_of(model).num_classes + 1)
        trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return head


def _blank_image(model: nn.Module) -> Tensor:
    config = config_of(model)
    device = next(model.parameters()).device
    return torch.zeros(1, config.channels, *config.image_size, device=device)


@torch.no_grad()
def _features(model: Any, image: Tensor) -> Tensor:
    """Return a model's features of an image in evaluation mode."""
    was_training = model.training
    features = model.eval().forward_features(image)
    model.train(was_training)
    return features
