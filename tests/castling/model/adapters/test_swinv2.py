from adapter_contract import AdapterContract, Backbone


SMALL = {"embed_dim": 12, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4}


class TestSwinV2(AdapterContract):
    backbones = (
        Backbone("swinv2_tiny_window8_256", 3, (32, 64), SMALL),
        Backbone("swinv2_tiny_window8_256", 3, (40, 56), SMALL, note="padded"),
        Backbone("swinv2_cr_tiny_224", 3, (32, 64), SMALL),
    )
