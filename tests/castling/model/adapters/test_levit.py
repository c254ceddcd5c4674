from adapter_contract import AdapterContract, Backbone
from small_timm import registered
from timm.models.efficientformer import EfficientFormer


SMALL = {"embed_dim": (16, 24, 32), "key_dim": 4, "depth": (1, 1, 1), "num_heads": (1, 2, 3)}
TINY = {
    "embed_dims": (8, 16, 24),
    "depths": (1, 1, 2),
    "num_heads": (1, 1, 2),
    "window_sizes": (4, 3, 4),
}
EFFICIENTFORMER = registered(
    "efficientformer", EfficientFormer, depths=(1, 3), embed_dims=(8, 16), num_vit=2,
    downsamples=(False, True),
)  # fmt: skip


class TestLevit(AdapterContract):
    backbones = (
        Backbone("levit_128s", 5, (96, 64), SMALL),
        Backbone("levit_conv_128s", 5, (64, 80), SMALL, note="maps"),
        Backbone("tiny_vit_5m_224", 3, (64, 64), TINY),
        Backbone(EFFICIENTFORMER, 2, (56, 56)),
    )
