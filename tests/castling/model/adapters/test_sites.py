import pickle

import pytest
import timm
import torch

from castling.config import LayerChoice
from castling.errors import ConfigError
from castling.model.adapters.sites import (
    NoAttentionError,
    attentions,
    examine,
    sites_of,
)
from castling.model.backbone import backbone_config, convert_backbone


SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


def on_meta(name: str, **options: object) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("resnet18", r"attention that can be converted, got 'resnet18'$"),
        (
            "xcit_nano_12_p8_224",
            r"converted: blocks\.0\.attn attends over channels, which is linear",
        ),
        ("test_resnet", r"attention that can be converted, got"),
    ],
)
def test_a_model_without_usable_attention_is_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(NoAttentionError, match=why) as caught:
        convert_backbone(name, "linear_angular")
    assert isinstance(caught.value, ConfigError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_unknown_architecture_is_refused_with_similar_ones() -> None:
    with pytest.raises(ConfigError, match="one of timm's models, got 'deit_huge'"):
        convert_backbone("deit_huge", "linear_angular")


def test_what_stays_as_it_is_says_why() -> None:
    model = on_meta("vit_base_patch16_siglip_224", embed_dim=24, depth=2, num_heads=3)
    sites = examine(model, "siglip", (3, 224, 224))
    assert [layer.name for layer in sites.layers] == ["blocks.0.attn", "blocks.1.attn"]
    assert list(sites.refused) == ["attn_pool"]
    assert "linear in the tokens already" in sites.refused["attn_pool"]


def test_of_nested_attentions_the_innermost_counts() -> None:
    assert attentions(on_meta("crossvit_9_240"))[-1] == "blocks.2.fusion.1.attn"
    assert attentions(on_meta("resnet18")) == []


def test_a_stranger_beside_a_layer_whose_path_it_extends_is_not_forgotten() -> None:
    model = on_meta("vit_tiny_patch16_224", depth=11, embed_dim=24, num_heads=3)
    model.blocks[10].attn = torch.nn.MultiheadAttention(24, 3, device="meta")
    assert "blocks.10.attn" in attentions(model)


def test_an_image_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"visformer_tiny .*\(20, 20\)|image_size: does not"):
        convert_backbone("visformer_tiny", "linear_angular", image_size=(20, 20))


def test_a_model_without_an_image_size_argument_takes_what_fits() -> None:
    config = backbone_config("pvt_v2_b0", "linear_angular", image_size=(64, 96), num_classes=5)
    assert sites_of(config).layers[0].shape(LayerChoice()).queries.num_tokens == 16 * 24


def test_a_model_without_a_classifier_castles() -> None:
    options = SMALL | {"num_classes": 0}
    model = convert_backbone("vit_tiny_patch16_224", "linear_angular", image_size=32, **options)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 24)
