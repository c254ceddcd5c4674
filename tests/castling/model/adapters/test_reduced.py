from adapter_contract import AdapterContract, Backbone


STAGES = {
    "depths": (1, 2),
    "embed_dims": (8, 16),
    "num_heads": (1, 2),
    "sr_ratios": (4, 1),
    "mlp_ratios": (2, 2),
}


class TestReduced(AdapterContract):
    backbones = (
        Backbone("pvt_v2_b0", 3, (32, 64), STAGES),
        Backbone("pvt_v2_b2_li", 3, (56, 56), STAGES, note="pooled"),
        Backbone("twins_svt_small", 3, (48, 32), STAGES | {"wss": (3, 3)}),
        Backbone("twins_pcpvt_small", 3, (32, 48), STAGES),
    )
