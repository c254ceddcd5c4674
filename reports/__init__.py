"""Recorded trials as a pandas DataFrame with a `.pareto` accessor; needs neither Ray nor torch."""

from reports.accessor import ParetoAccessor
from reports.choice import progress_table
from reports.curves import load_curves
from reports.frame import COLUMNS, load, load_config, load_configs
from reports.importance import importance, operator_effects, rank_correlation
from reports.layers import LayersAccessor, layers


__all__ = [
    "COLUMNS",
    "LayersAccessor",
    "ParetoAccessor",
    "importance",
    "layers",
    "load",
    "load_config",
    "load_configs",
    "load_curves",
    "operator_effects",
    "progress_table",
    "rank_correlation",
]
