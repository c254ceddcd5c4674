from host_contract import Backbone, HostContract


SMALL = {"embed_dim": (16, 24, 32), "key_dim": 4, "depth": (1, 1, 1), "num_heads": (1, 2, 3)}


class TestLevit(HostContract):
    backbones = (
        Backbone("levit_128s", 5, (96, 64), SMALL),
        Backbone("levit_conv_128s", 5, (64, 80), SMALL, note="maps"),
    )
