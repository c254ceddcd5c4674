from pathlib import Path

from castling.config import LayerChoice
from castling.model.backbone import backbone_config
from space.budget import Budget
from space.latency import LatencyTable
from space.presets import SPACES


def test_a_part_is_timed_once(tmp_path: Path) -> None:
    model = SPACES["digits"]().base.model
    table = LatencyTable(tmp_path / "latency.jsonl")
    first = table(model)
    assert first > 0.0
    assert len(table) == 6  # yardstick, stem, rest of a block, MLP, an operator in either place
    assert table(model) == first
    assert LatencyTable(tmp_path / "latency.jsonl")(model) == first


def test_a_torn_line_is_timed_again(tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    model = SPACES["digits"]().base.model
    LatencyTable(path)(model)
    path.write_bytes(path.read_bytes()[:-10])
    assert LatencyTable(path)(model) > 0.0
    assert len(LatencyTable(path)) == 6


def test_training_only_parts_cost_no_time() -> None:
    model = SPACES["digits"]().base.model
    table = LatencyTable()
    assert table(model) == table(model.castled())


def test_backbones_are_summed_over_their_layers() -> None:
    options = {"embed_dim": [16, 24, 32], "key_dim": 4, "num_heads": [1, 2, 3]}
    table = LatencyTable()
    for name in ("softmax", "linear_angular"):
        model = backbone_config("levit_128", LayerChoice(operator=name), image_size=64, **options)
        assert table(model) > 0.0


def test_a_latency_that_is_not_known_is_in_no_bound() -> None:
    assert not Budget(max_latency_ms=1.0).admits({"macs": 1, "params": 1})
    assert Budget(max_latency_ms=1.0).admits({"latency_ms": 0.9})
    assert not Budget(max_latency_ms=1.0).admits({"latency_ms": 1.1})


def test_a_table_begun_in_memory_goes_on_in_a_file(tmp_path: Path) -> None:
    model = SPACES["digits"]().base.model
    table, path = LatencyTable(), tmp_path / "latency.jsonl"
    first = table(model)
    table.keep_in(path)
    deeper = model.replace(blocks=(model.blocks[0].replace(num_heads=1),) * 2)
    second = table(deeper)
    kept = LatencyTable(path)
    assert kept(model) == first
    assert kept(deeper) == second
    kept.keep_in(path)
    assert len(path.read_text().splitlines()) == len(kept)


def test_a_line_that_is_nested_without_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    path.write_text("[" * 100_000 + "\n" + '{"part": "stem", "ms": 1.0}\n')
    assert len(LatencyTable(path)) == 1
