"""The layers of trials as a table: operator, family, kernel, heads, mask, the epoch it castled."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from castling.config import ModelConfig
from castling.errors import CastlingError, ConfigError
from castling.operators import OPERATORS
from castling.operators.spec import layer_shapes
from reports.curves import MASK_DENSITY, load_curves
from reports.frame import load_configs


CASTLED = "castled"
"""The family of a linear layer whose auxiliary branch is dropped after training."""
FAMILIES = (CASTLED, "linear", "quadratic", "local", "none", "other")


class Layer(NamedTuple):
    """One layer of a trial's model, as its config has it."""

    operator: str
    code: str
    """The operator's two letters."""
    family: str
    """One of FAMILIES."""
    kernel: int | None
    """Taps of its convolution, None for operators without one."""
    form: str | None
    """tokens or grid, where it has a convolution."""
    heads: int | None
    head_size: int | None
    mlp_ratio: float | None
    mask: str | None
    """The shape of its mask's schedule; None where it trains without a branch."""

    @property
    def castles(self) -> bool:
        """Whether a branch is dropped after training."""
        return self.mask is not None


def layers_of(config: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a training config as plain data, first to last.

    Configs of other versions are read as far as they go: a field that is absent is None.
    """
    model = config.get("model")
    blocks = model.get("blocks") if isinstance(model, Mapping) else None
    if not isinstance(blocks, list):
        return []
    return [_layer(block) for block in blocks if isinstance(block, Mapping)]


def _layer(block: Mapping[str, Any]) -> Layer:
    name = str(block.get("operator", ""))
    spec = OPERATORS.get(name)
    uses = spec.uses if spec else block.keys()
    schedule = block.get("mask") if "mask" in uses else None
    mask = str(schedule.get("shape", "linear")) if isinstance(schedule, Mapping) else None
    has_kernel, has_heads = "conv_kernel" in uses, "num_heads" in uses
    return Layer(
        operator=name,
        code=spec.letters(name) if spec else name[:2].upper(),
        family=CASTLED if mask is not None else spec.family if spec else "other",
        kernel=block.get("conv_kernel") if has_kernel else None,
        form=block.get("conv_form") if has_kernel else None,
        heads=block.get("num_heads") if has_heads else None,
        head_size=block.get("head_size") if "head_size" in uses else None,
        mlp_ratio=block.get("mlp_ratio"),
        mask=mask,
    )


DTYPES: dict[str, Any] = {
    "trial": "int64",
    "layer": "int64",
    **dict.fromkeys(("operator", "code"), "string"),
    "family": pd.CategoricalDtype([*FAMILIES]),
    **dict.fromkeys(("kernel", "heads", "head_size", "macs", "castled_epoch"), "Int64"),
    **dict.fromkeys(("form", "mask"), "string"),
    "mlp_ratio": "Float64",
}
"""The columns of `layers` and their dtypes; missing is NA."""


def layers(trials: pd.DataFrame, run: str | Path | None = None) -> pd.DataFrame:
    """Return a row per trial and layer of trials, as `reports.load` returns them.

    The columns are those of DTYPES. `macs` are the exact multiply-accumulates per image of the
    layer's operator, projections included, NA for models of timm; `castled_epoch` is the first
    epoch from which the layer's mask was empty until the end, NA where it never was, or where
    there is no branch.

    Args:
        trials: the rows whose layers are wanted.
        run: folder of the run; by default the one that the trials were loaded from.

    Raises:
        ConfigError: when the folder is not known, since pandas lost the frame's attrs.
        RunFolderError: when the folder is no run or has no study.
    """
    folder = run_of(trials, run)
    configs = load_configs(folder)
    castled = {
        (row.trial, row.layer): row.castled_epoch
        for row in castled_epochs(densities(load_curves(folder), configs)).itertuples()
    }
    rows = [
        {
            "trial": trial,
            "layer": place,
            **layer._asdict(),
            "macs": macs,
            "castled_epoch": castled.get((trial, place)),
        }
        for trial in trials["trial"].tolist()
        for place, (layer, macs) in enumerate(_priced(configs.get(trial, {})))
    ]
    return pd.DataFrame(rows, columns=[*DTYPES]).astype(DTYPES)


def run_of(frame: pd.DataFrame, run: str | Path | None) -> Path:
    """Return the folder of the run that a frame was loaded from; ConfigError when unknown."""
    folder = frame.attrs.get("run") if run is None else run
    if folder is None:
        raise ConfigError(
            "run", "must be known, pandas lost the frame's attrs", fix="pass run=RUN"
        )
    return Path(folder)


def _priced(config: Mapping[str, Any]) -> Iterable[tuple[Layer, int | None]]:
    found = layers_of(config)
    try:
        model = ModelConfig.from_data(config.get("model"))
        macs = [
            OPERATORS[shape.block.operator].macs(shape) if shape.block.operator in OPERATORS else 0
            for shape in layer_shapes(model)
        ]
    except (CastlingError, ValueError, TypeError):  # of timm, or of another version
        return zip(found, [None] * len(found), strict=True)
    return zip(found, macs, strict=True)


def densities(curves: pd.DataFrame, configs: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per trial, epoch and layer: the fraction of mask entries that survive.

    Args:
        curves: as of `load_curves`.
        configs: the training config of each trial, by its number.

    Returns:
        Columns trial, epoch, layer, mask_density, the last NA for layers without a branch.
    """
    found = {trial: layers_of(configs.get(trial, {})) for trial in curves["trial"].unique()}
    rows = [
        (trial, epoch, layer, density)
        for trial, epoch, alive in zip(
            curves["trial"].tolist(),
            curves["epoch"].tolist(),
            curves[MASK_DENSITY].tolist(),
            strict=True,
        )
        for layer, density in enumerate(by_layer(found[trial], alive))
    ]
    frame = pd.DataFrame(rows, columns=["trial", "epoch", "layer", MASK_DENSITY])
    return frame.astype(
        {"trial": "int64", "epoch": "int64", "layer": "int64", MASK_DENSITY: "Float64"}
    )


def by_layer(found: Sequence[Layer], alive: Sequence[float]) -> list[float | None]:
    """Return the density of every layer, from those of the layers that have a branch."""
    remaining = iter(alive)
    if not found:
        return list(alive)
    return [next(remaining, None) if layer.castles else None for layer in found]


def castled_epochs(alive: pd.DataFrame) -> pd.DataFrame:
    """Return per trial and layer the first epoch from which its mask was empty until the end.

    Args:
        alive: as of `densities`.

    Returns:
        Columns trial, layer, castled_epoch; layers whose mask never emptied have no row.
    """
    masked = alive.dropna(subset=[MASK_DENSITY])
    last = masked.groupby(["trial", "layer"])["epoch"].max()
    full = masked[masked[MASK_DENSITY] > 0.0].groupby(["trial", "layer"])["epoch"].max()
    ends = pd.DataFrame({"last": last, "full": full.reindex(last.index).fillna(0)})
    ends = ends[ends["full"] < ends["last"]].astype("int64").reset_index()
    return ends.assign(castled_epoch=ends["full"] + 1)[["trial", "layer", "castled_epoch"]]


@pd.api.extensions.register_dataframe_accessor("layers")
class LayersAccessor:
    """Makes `curves.layers()` of a frame that `load_curves` returned."""

    def __init__(self, curves: pd.DataFrame) -> None:
        self._curves = curves

    def __call__(self, run: str | Path | None = None) -> pd.DataFrame:
        """Return a row per trial, epoch and layer with its mask's density; see `densities`.

        Raises:
            ConfigError: when the frame is none of curves, or its run is not known.
        """
        if MASK_DENSITY not in self._curves or "epoch" not in self._curves:
            raise ConfigError("layers", "must be called on reports.load_curves(RUN)")
        return densities(self._curves, load_configs(run_of(self._curves, run)))
