from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from made_up_study import made_up_run, made_up_trial, write_study

import reports
from castling.config import BlockConfig, ModelConfig, RunConfig
from castling.errors import ConfigError
from castling.operators import OPERATORS
from castling.operators.spec import layer_shapes
from reports.importance import FEWEST_TRIALS, encoded, excess
from reports.layers import DTYPES, FAMILIES, castled_epochs, layers_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_run(tmp_path_factory.mktemp("runs") / "run")


def test_operators_have_letters_of_their_own_and_a_family() -> None:
    letters = [spec.letters(name) for name, spec in OPERATORS.items()]
    assert len({*letters}) == len(letters)
    assert all(len(two) == 2 for two in letters)
    assert {spec.family for spec in OPERATORS.values()} <= {*FAMILIES} - {"other", "castled"}
    for name, spec in OPERATORS.items():
        if spec.family == "none":
            assert not spec.mixes_tokens, name


def test_a_layer_castles_if_it_trains_with_a_branch() -> None:
    mask, grid = {"shape": "cosine"}, {"conv_kernel": 5, "conv_form": "grid"}
    config = {
        "model": {
            "blocks": [
                {"operator": "linear_angular", **grid, "mask": mask},
                {"operator": "linear_angular", "conv_kernel": 5, "mask": None},
                {"operator": "softmax", "conv_kernel": 5, "num_heads": 2, "mask": mask},
                {"operator": "of_another_package", "conv_kernel": 3},
            ]
        }
    }
    first, second, third, other = layers_of(config)
    assert (first.family, first.mask, first.kernel, first.form) == ("castled", "cosine", 5, "grid")
    assert (second.family, second.castles) == ("linear", False)
    assert (third.family, third.kernel, third.mask, third.heads) == ("quadratic", None, None, 2)
    assert (other.family, other.code) == ("other", "OF")
    assert layers_of({}) == layers_of({"model": {"blocks": 3}}) == []


def test_layers_are_a_row_per_trial_and_layer(run: Path) -> None:
    trials = reports.load(run)
    table = reports.layers(trials)
    assert len(table) == 4 * len(trials)
    assert {name: table[name].dtype for name in table} == {
        name: pd.api.types.pandas_dtype(dtype) for name, dtype in DTYPES.items()
    }
    castled = table[table["family"] == "castled"].merge(trials[["trial", "state"]], on="trial")
    done = castled[castled["state"] == "trained"]
    assert (done["castled_epoch"] == 10).all()
    assert table.loc[table["family"] != "castled", "castled_epoch"].isna().all()


def test_layers_have_exact_macs(tmp_path: Path) -> None:
    model = ModelConfig(blocks=(BlockConfig(), BlockConfig(operator="softmax", num_heads=2)))
    record, _ = made_up_trial(0, Random(0))
    run = write_study(tmp_path / "run", [(record, RunConfig(model=model).to_data())])
    expected = [OPERATORS[shape.block.operator].macs(shape) for shape in layer_shapes(model)]
    assert reports.layers(reports.load(run))["macs"].tolist() == expected


def test_curves_have_a_density_for_every_layer(run: Path) -> None:
    curves = reports.load_curves(run)
    table = curves.layers()
    assert len(table) == 4 * len(curves)
    families = reports.layers(reports.load(run)).set_index(["trial", "layer"])["family"]
    missing = table.set_index(["trial", "layer"])["mask_density"].isna()
    same = missing.groupby(level=[0, 1]).first()
    has_branch = families.reindex(same.index) == "castled"
    assert (same == ~has_branch).all()
    with pytest.raises(ConfigError, match="load_curves"):
        reports.load(run).layers()


def test_a_layer_castles_after_its_last_entry() -> None:
    rows = [(0, 1, 0, 0.5), (0, 2, 0, 0.0), (0, 3, 0, 0.1), (0, 4, 0, 0.0)]
    rows += [(0, epoch, 1, 0.2) for epoch in range(1, 5)]
    rows += [(0, epoch, 2, 0.0) for epoch in range(1, 5)]
    alive = pd.DataFrame(rows, columns=["trial", "epoch", "layer", "mask_density"])
    found = castled_epochs(alive)
    assert found[["layer", "castled_epoch"]].to_numpy().tolist() == [[0, 4], [2, 1]]


def test_a_frame_without_its_run_says_so(run: Path) -> None:
    trials = reports.load(run)
    trials.attrs = {}
    with pytest.raises(ConfigError, match="pass run=RUN"):
        reports.layers(trials)
    assert len(reports.layers(trials, run)) == 4 * len(trials)


def test_importance_finds_the_dimension_that_decides() -> None:
    rng = np.random.default_rng(0)
    number = 60
    trials = pd.DataFrame(
        {
            "trial": range(number),
            "state": "trained",
            "epochs": 2,
            "epochs_planned": 2,
            "model.width": pd.Series(rng.integers(1, 9, number), dtype="Int64"),
            "model.kind": pd.Series(rng.choice(["a", "b"], number), dtype="string"),
            "train.rate": pd.Series(rng.random(number), dtype="Float64"),
            "train.constant": 3,
        }
    )
    trials["macs"] = trials["model.width"].astype(int) * 1000
    trials["top1"] = (
        0.5 + 0.4 * (trials["model.kind"] == "b").astype(float) + 0.001 * rng.random(number)
    )
    table = reports.importance(trials)
    assert {*table.index} == {"model.width", "model.kind", "train.rate"}
    assert table["top1"].idxmax() == "model.kind"
    assert table["macs"].idxmax() == "model.width"
    assert table.sum().to_numpy() == pytest.approx([1.0, 1.0])
    assert reports.importance(trials.head(FEWEST_TRIALS - 1)).empty
    assert encoded(pd.Series(["b", None, "a"], dtype="string")).tolist() == [1.0, -1.0, 0.0]


def test_effects_are_what_the_cost_does_not_explain(run: Path) -> None:
    trials = reports.load(run)
    beyond = excess(trials)
    assert abs(beyond.mean()) < 1e-9
    table = reports.operator_effects(trials, reports.layers(trials))
    trained = trials.pareto.trained()
    assert table.groupby("layer")["trials"].sum().tolist() == [len(trained)] * 4
    assert (table["front"] <= table["trials"]).all()


def test_the_last_epochs_ranks_are_the_final_ones(run: Path) -> None:
    table = reports.rank_correlation(reports.load_curves(run), reports.load(run))
    assert table["correlation"].iloc[-1] == pytest.approx(1.0)
    assert table["correlation"].between(-1, 1).all()
    few = reports.load(run).head(3)
    assert reports.rank_correlation(reports.load_curves(run), few).empty
