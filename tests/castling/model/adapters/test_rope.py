from adapter_contract import AdapterContract, Backbone


SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}
GROUPED = SMALL | {"attn_type": "rope", "num_kv_heads": 1, "qkv_fused": False}


class TestRope(AdapterContract):
    backbones = (
        Backbone("eva02_tiny_patch14_224", 3, (56, 42), SMALL),
        Backbone("vit_small_patch16_dinov3", 3, (48, 64), SMALL),
        Backbone("vit_small_patch16_rope_mixed_224", 3, (32, 48), SMALL, note="mixed"),
        Backbone("vit_small_patch16_rope_224", 3, (32, 48), GROUPED, note="grouped"),
    )
