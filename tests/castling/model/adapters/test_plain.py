from adapter_contract import AdapterContract, Backbone


SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}


class TestPlain(AdapterContract):
    backbones = (
        Backbone("deit_tiny_patch16_224", 3, (48, 64), SMALL),
        Backbone("vit_base_patch16_siglip_224", 3, (32, 48), SMALL, refused=1, note="pool"),
        Backbone("vit_small_patch16_224", 3, (48, 32), SMALL | {"qk_norm": True}, note="normed"),
    )
