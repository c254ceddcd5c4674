from adapter_contract import AdapterContract, Backbone


SMALL = {"embed_dim": 12, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4}


class TestSwin(AdapterContract):
    backbones = (
        Backbone("swin_tiny_patch4_window7_224", 3, (32, 64), SMALL),
        Backbone("swin_tiny_patch4_window7_224", 3, (40, 56), SMALL, note="padded"),
    )
