from adapter_contract import AdapterContract, Backbone
from small_timm import registered
from timm.models.davit import DaVit
from timm.models.fastvit import FastVit
from timm.models.metaformer import Attention, LayerNormNoBias, MetaFormer
from timm.models.nest import Nest
from timm.models.visformer import Visformer
from timm.models.volo import VOLO


FASTVIT = registered(
    "fastvit", FastVit, layers=(1, 2), embed_dims=(8, 32), mlp_ratios=(2, 2),
    token_mixers=("repmixer", "attention"), downsamples=(False, True), cls_ratio=1.0,
)  # fmt: skip
VISFORMER = registered(
    "visformer", Visformer, init_channels=8, embed_dim=24, depth=(1, 2, 1), num_heads=3, group=3,
    attn_stage="011", spatial_conv="100",
)  # fmt: skip
VOLO_SMALL = registered(
    "volo", VOLO, layers=(1, 2), embed_dims=(12, 24), num_heads=(2, 3), mlp_ratio=2.0,
    downsamples=(True, False), outlook_attention=(True, False), stem_hidden_dim=8,
)  # fmt: skip
NEST = registered(
    "nest", Nest, embed_dims=(8, 16), num_heads=(1, 2), depths=(2, 1), num_levels=2,
    drop_path_rate=0.0,
)  # fmt: skip
DAVIT = registered(
    "davit", DaVit, depths=(1, 1), embed_dims=(8, 16), num_heads=(1, 2), window_size=3
)
METAFORMER = registered(
    "metaformer", MetaFormer, depths=(1, 2), dims=(32, 64), token_mixers=Attention,
    norm_layers=LayerNormNoBias,
)  # fmt: skip


class TestLayouts(AdapterContract):
    backbones = (
        Backbone(FASTVIT, 2, (64, 96)),
        Backbone(VISFORMER, 3, (64, 96)),
        Backbone(VOLO_SMALL, 2, (32, 48), refused=3),
        Backbone(NEST, 3, (32, 32)),
        Backbone(DAVIT, 2, (32, 48), refused=2),
        Backbone(METAFORMER, 3, (32, 32)),
    )
