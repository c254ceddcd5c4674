"""Models that no machine holds are refused before they take memory."""

import resource
from typing import Any

import pytest
import torch
from torch import nn

import castling
from castling.config import BackboneConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.check import check
from castling.operators import OPERATORS
from castling.untrusted import bounds


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


WIDE = {"num_heads": 1_024, "head_size": 4_096}
ENORMOUS: dict[str, dict[str, Any]] = {
    "embed_width": {"embed_width": 10**9},
    "blocks": {"blocks": [{}] * 10**6},
    "image": {"image_size": 10**6},
    "patches": {"image_size": 8_192, "patch_size": 1},
    "channels": {"channels": 10**9},
    "pixels": {"channels": 4_096, "image_size": 8_192, "patch_size": 512},
    "classes": {"num_classes": 10**12},
    "kernel": {"blocks": [{"conv_kernel": 10**9 + 1}]},
    "heads": {"blocks": [{"num_heads": 10**9}]},
    "head": {"blocks": [{"head_size": 10**9}]},
    "MLP": {"blocks": [{"mlp_ratio": 1e9}]},
    "steps": {"blocks": [{"mask": {"num_steps": 10**12}}]},
    "all at their limits": {"embed_width": 2**15, "blocks": [WIDE] * 512},
    "features": {"blocks": [{"operator": "performer", "options": {"num_features": 10**9}}]},
    "tokens": {"blocks": [{"operator": "lightvit", "options": {"num_global_tokens": 10**9}}]},
    "window": {"blocks": [{"operator": "swin", "options": {"window_size": 10**6}}]},
    "graph": {"image_size": 512, "blocks": [{"operator": "gvt"}]},
}  # fmt: skip


@pytest.mark.parametrize("case", ENORMOUS)
def test_an_enormous_config_is_one_sentence_and_no_memory(case: str) -> None:
    before = peak_mib()
    with pytest.raises(ConfigError) as caught:
        check(ModelConfig.from_data(ENORMOUS[case]))
    assert len(str(caught.value)) < 500
    assert peak_mib() - before < 50


@pytest.mark.parametrize(
    "options",
    [{"depth": 10**6}, {"depth": 60_000}, {"embed_dim": 60_000}, {"x": [[1e300]]}, {"x": "y"}],
    ids=str,
)
def test_an_enormous_backbone_is_refused(options: dict[str, object]) -> None:
    before = peak_mib()
    with pytest.raises(ConfigError, match=r"must (be a model|have numbers)|cannot be built"):
        check(
            BackboneConfig(backbone="deit_tiny_patch16_224", blocks=("softmax",), options=options)
        )
    assert peak_mib() - before < 400


@pytest.mark.parametrize("operator", list(OPERATORS))
def test_every_operator_takes_a_large_image_within_the_limits(operator: str) -> None:
    """At 4,096 tokens, of the operators that serve them, no layer holds a map of all pairs."""
    config = ModelConfig.from_data(
        {"image_size": 256, "patch_size": 4, "embed_width": 64,
         "blocks": [{"operator": operator, "num_heads": 4, "mask": None}]}
    )  # fmt: skip
    model = castling.build(config, seed=0)
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert held < 64 * 2**20


def test_a_model_for_which_memory_lacks_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "available_bytes", lambda: 0)
    monkeypatch.setattr(bounds, "SMALL", 1_000)
    with pytest.raises(ConfigError, match="GiB of memory left here"):
        castling.build(ModelConfig(), seed=0)
    monkeypatch.undo()
    castling.build(ModelConfig(), seed=0)


def test_parts_are_counted_only_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_MODULES", 3)
    with pytest.raises(ConfigError, match="at most 3 parts"), bounds.bounded("it"):
        nn.ModuleList(nn.Identity() for _ in range(4))
    with bounds.bounded("it"):
        nn.ModuleList(nn.Identity() for _ in range(3))
    nn.ModuleList(nn.Identity() for _ in range(9))


def test_numbers_on_no_device_are_counted_too() -> None:
    with pytest.raises(ConfigError, match="numbers"), bounds.bounded("it"), torch.device("meta"):
        nn.Linear(10**6, 10**6)
