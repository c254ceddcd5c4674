from host_contract import Backbone, HostContract


SMALL = {"embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}


class TestSwin(HostContract):
    backbones = (
        Backbone("swin_tiny_patch4_window7_224", 4, (32, 64), SMALL),
        Backbone("swin_tiny_patch4_window7_224", 4, (40, 56), SMALL, note="padded"),
    )
