"""Recorded trials as a pandas DataFrame with a `.pareto` accessor; needs neither Ray nor torch."""

from reports.accessor import ParetoAccessor
from reports.curves import load_curves
from reports.frame import COLUMNS, load, load_config


__all__ = ["COLUMNS", "ParetoAccessor", "load", "load_config", "load_curves"]
