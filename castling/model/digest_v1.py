"""The digest of version 0.1.0, which the checkpoints of its interrupted trainings name."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from castling.config import Config, RunConfig
from castling.model.check import canonical


FIELDS: Mapping[str, str] = {
    "RunConfig": "model train data",
    "ModelConfig": (
        "image_size channels num_classes patch_size embed_width pooling qkv_bias blocks"
    ),
    "BackboneConfig": "backbone image_size channels num_classes options blocks",
    "LayerChoice": "operator conv_kernel conv_form conv_filters mask options",
    "BlockConfig": (
        "operator conv_kernel conv_form conv_filters mask options num_heads head_size mlp "
        "mlp_ratio drop_path"
    ),
    "MaskSchedule": "shape start_multiple start end num_steps l1_weight",
    "TrainConfig": (
        "initial distill epochs batch_size learning_rate final_learning_rate warmup weight_decay "
        "label_smoothing gate_target gate_weight gate_rate clip_norm augment precision seed"
    ),
    "DistillConfig": (
        "teacher weights form weight temperature layer_weight token_weight token_smoothing "
        "token_top token_background"
    ),
    "AugmentConfig": "shift rotate scale flip erase",
    "DataConfig": "name path num_train num_validation split_seed",
}
"""The fields of each config in that version, without later ones."""


def digest_v1(run: RunConfig) -> str:
    """Return the hash of the canonical config with every field that version 0.1.0 had."""
    data = _as_it_was(run.replace(model=canonical(run.model)))
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def is_of_v1(run: RunConfig) -> bool:
    """Return whether version 0.1.0 could train a run: its later fields are at their defaults."""
    known = {*FIELDS["TrainConfig"].split()}
    return run.train.model_dump(exclude_defaults=True).keys() <= known


def _as_it_was(value: Any) -> Any:
    """Return a config as plain data of the old fields."""
    if not isinstance(value, Config):
        return [_as_it_was(entry) for entry in value] if isinstance(value, tuple) else value
    data = value.to_data()
    changed = {
        name: _as_it_was(getattr(value, name))
        for name in FIELDS[type(value).__name__].split()
        if isinstance(getattr(value, name), Config | tuple)
    }
    return {name: data[name] for name in FIELDS[type(value).__name__].split()} | changed
