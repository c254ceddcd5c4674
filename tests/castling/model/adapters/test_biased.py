from adapter_contract import AdapterContract, Backbone


SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}
SHARED = SMALL | {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}


class TestBiased(AdapterContract):
    backbones = (
        Backbone("beit_base_patch16_224", 3, (48, 64), SMALL),
        Backbone("beit_base_patch16_224", 3, (48, 64), SHARED, note="shared"),
        Backbone("vit_relpos_small_patch16_224", 3, (48, 64), SMALL),
        Backbone("vit_relpos_base_patch32_plus_rpn_256", 3, (64, 96), SMALL, note="mlp"),
    )
