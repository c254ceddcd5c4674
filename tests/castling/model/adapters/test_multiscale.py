from adapter_contract import AdapterContract, Backbone
from timm.models.mvitv2 import MultiScaleVitCfg, model_cfgs


STAGES = {
    "depths": (1, 2),
    "embed_dim": (8, 16),
    "num_heads": (1, 2),
    "stride_q": ((1, 1), (2, 2)),
}
model_cfgs["castling_test"] = MultiScaleVitCfg(**STAGES)
model_cfgs["castling_test_cls"] = MultiScaleVitCfg(
    **STAGES, use_cls_token=True, use_abs_pos=True, rel_pos_type="", residual_pooling=False
)


class TestMultiScale(AdapterContract):
    backbones = (
        Backbone("mvitv2_tiny", 3, (32, 32), {"cfg_variant": "castling_test"}),
        Backbone("mvitv2_tiny", 3, (24, 40), {"cfg_variant": "castling_test_cls"}, note="cls"),
    )
