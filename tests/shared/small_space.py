"""Settings that leave next to nothing of the space `digits` free."""

ONE_OF_ALL = {
    "train.learning_rate": 1e-3,
    "train.weight_decay": 0.05,
    "model.embed_width": 16,
    "model.blocks.*.operator": "softmax",
    "model.blocks.*.conv_kernel": 3,
    "model.blocks.*.conv_form": "grid",
    "model.blocks.*.num_heads": 1,
    "model.blocks.*.mlp_ratio": 1.0,
}
"""One value of every dimension but the depth, the head size and the mask."""
