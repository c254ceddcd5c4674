import pytest
import torch

import castling
from castling.blocks.modules.mlp import ShrinkingMlp
from castling.config import BlockConfig, ModelConfig, RunConfig, TrainConfig
from castling.model.build import build
from castling.model.castle import castle
from castling.model.settle import settle
from castling.model.vit import CastlingViT
from castling.operators.modules.gates import gated
from castling.operators.modules.spvit_gated import GatedSinglePath
from castling.training.data import load_data
from castling.training.loop import train
from space.cost import cost
from space.measure import measure_macs, measure_params


GATED = BlockConfig(operator="spvit_gated", mlp="shrinking", mlp_ratio=2.0, num_heads=2)
CONFIG = ModelConfig(embed_width=16, blocks=(GATED, BlockConfig(num_heads=2), GATED, GATED, GATED))
LOGITS = ((-1.0, 1.0, 1.0), None, (1.0, -1.0, 1.0), (1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


def decided() -> CastlingViT:
    """Return a model whose gated layers have decided, each for another candidate."""
    model = build(CONFIG, seed=0)
    generator = torch.Generator().manual_seed(3)
    for block, logits in zip(model.blocks, LOGITS, strict=True):
        if isinstance(block.attn, GatedSinglePath):
            with torch.no_grad():
                block.attn.gates.t.copy_(torch.tensor(logits))
        if isinstance(block.mlp, ShrinkingMlp):
            torch.nn.init.normal_(block.mlp.gates.t, generator=generator)
    return model


def images() -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_settled_model_computes_the_same_without_gates() -> None:
    model = decided()
    settled = settle(model)
    assert gated(settled) == []
    assert settled.training
    chosen = [block.operator for block in settled.config.blocks]
    assert chosen == ["skip", "linear_angular", "spvit_conv1", "spvit_conv3", "softmax"]
    torch.testing.assert_close(settled.eval()(images()), model.eval()(images()))


def test_a_settled_model_costs_what_was_chosen() -> None:
    settled = castle(settle(decided()))
    spent = cost(settled.config)
    assert measure_macs(settled, (1, 8, 8)) == spent.macs < cost(CONFIG.castled()).macs
    assert measure_params(settled) == spent.params


def test_an_mlp_whose_gates_are_all_shut_keeps_one_unit() -> None:
    model = decided()
    mlp = model.blocks[0].mlp
    assert isinstance(mlp, ShrinkingMlp)
    with torch.no_grad():
        mlp.gates.t.copy_(-torch.arange(1.0, 33.0))
    settled = settle(model)
    assert settled.blocks[0].mlp.fc1.weight.shape == (1, 16)
    assert torch.equal(settled.blocks[0].mlp.fc1.weight[0], mlp.mlp.fc1.weight[0])


@pytest.mark.parametrize("width", [1, 7, 16, 192])
def test_every_number_of_units_is_a_ratio(width: int) -> None:
    for units in range(1, 4 * width + 1):
        assert int(width * ((units + 0.5) / width)) == units


def test_a_model_without_gates_stays_itself() -> None:
    model = build(ModelConfig(), seed=0)
    assert castling.settle(model) is model


@pytest.mark.parametrize("target", [0.9, 0.3])
def test_training_brings_the_cost_to_its_target(target: float) -> None:
    run = RunConfig(
        model=ModelConfig(embed_width=16, blocks=(GATED, GATED)),
        train=TrainConfig(
            epochs=6, gate_target=target, gate_weight=4.0, batch_size=16, learning_rate=1e-2
        ),
    )
    run = run.replace(data=run.data.replace(num_train=500))
    model = train(run, load_data(run.data, run.model)).model
    parts = gated(model)
    expected = sum(part.expected_macs().item() for part in parts)
    assert expected / sum(part.most_macs for part in parts) == pytest.approx(target, abs=0.1)
