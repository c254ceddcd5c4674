from adapter_contract import AdapterContract, Backbone


MAXVIT = {
    "embed_dim": (16, 32),
    "depths": (1, 1),
    "block_type": ("M", "M"),
    "stem_width": 8,
    "transformer_dim_head": 8,
}
WINDOWS = {"transformer_window_size": (4, 4), "transformer_grid_size": (4, 4)}
COATNET = MAXVIT | {"block_type": ("C", "T"), "depths": (1, 2)}


class TestMaxxVit(AdapterContract):
    backbones = (
        Backbone(
            "maxvit_tiny_tf_224",
            4,
            (64, 96),
            MAXVIT | {"transformer_window_size": (4, 4), "transformer_grid_size": (4, 4)},
        ),
        Backbone("coatnet_rmlp_nano_rw_224", 2, (64, 48), COATNET),
        Backbone("coatnet_0_224", 2, (32, 48), COATNET, note="bias"),
    )
