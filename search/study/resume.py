"""The space of a resumed run, and whether a search config still describes this run."""

import dataclasses
from pathlib import Path

from castling.errors import RunFolderError, SpaceMismatchError
from castling.model.check import checked
from reports.manifest import Manifest
from reports.records import MANIFEST_FILE, RECORD_ATTRIBUTE
from reports.study import read_trials
from search.config import SearchConfig, check_dimensions
from search.samplers.distributions import domain_of
from space.difference import difference
from space.domain import Domain
from space.point import Dimension, Space
from space.target import Target


FREE_TO_CHANGE = (
    *("name", "trials", "workers", "workers_per_trial", "cpus_per_trial", "gpus_per_trial"),
    *("max_refusals", "retries", "double_accumulation", "trial_minutes"),
)
"""Fields of a search that may differ on resume: they change how much is searched, not what."""
OF_THE_SPACE = ("space", "training", "set", "dimensions")
"""Fields of a search that define its space."""


def resumed_space(run: Path, manifest: Manifest, config: SearchConfig) -> Space:
    """Return the space of a run that a search config goes on with.

    The manifest holds it, so that new operators, presets and fields change nothing. A config is
    compared with it only if it defines the space in other words than the run's config.

    Raises:
        SpaceMismatchError: when the config is another search than the run was started with.
        RunFolderError: when this version of castling cannot read the run's space.
        ConfigError: when the space needs an operator that is not registered.
    """
    place = str(run / MANIFEST_FILE)
    started = SearchConfig.from_data(manifest.recipe, place)
    space = manifest.read_space(run) or _of_first_version(run, manifest, started)
    checked(space.base)
    check_dimensions(space)
    ours, theirs = started.to_data(), config.to_data()
    if any(ours[name] != theirs[name] for name in OF_THE_SPACE):
        found = difference(space, _searching(space, config))
        if found is not None:
            raise SpaceMismatchError(str(run), found.what, found.first, found.second)
    for name in ours:
        if name not in (*FREE_TO_CHANGE, *OF_THE_SPACE) and ours[name] != theirs[name]:
            raise SpaceMismatchError(str(run), name, str(ours[name]), str(theirs[name]))
    return space


def _searching(space: Space, config: SearchConfig) -> Space:
    """Return the space of a config; values that it leaves out are those of another space."""
    stored = {dimension.target: dimension.domain for dimension in space.dimensions}
    left_open = [Target(dimension.target) for dimension in config.dimensions if dimension.is_open]

    def closed(dimension: Dimension) -> Dimension:
        domain = stored.get(dimension.target) if dimension.target in left_open else None
        return dataclasses.replace(dimension, domain=domain or dimension.domain)

    built = config.build_space()
    return dataclasses.replace(built, dimensions=tuple(map(closed, built.dimensions)))


def _of_first_version(run: Path, manifest: Manifest, started: SearchConfig) -> Space:
    """Return the space of a run whose manifest holds only the recipe.

    The study gives the values of a dimension, since Optuna stores the distribution of every value:
    a recipe may leave them to the catalogue, which may have changed.
    """
    space = started.build_space()
    searched, is_whole = _searched_domains(run, manifest)

    def as_searched(dimension: Dimension) -> Dimension:
        domain = searched.get(space.names(dimension)[0], dimension.domain)
        return dataclasses.replace(dimension, domain=domain)

    space = dataclasses.replace(space, dimensions=tuple(map(as_searched, space.dimensions)))
    for name in {**searched, **(space.domains if is_whole else {})}:
        stored, built = searched.get(name), space.domains.get(name)
        if stored != built:
            raise SpaceMismatchError(str(run), f"the dimension {name}", str(stored), str(built))
    return space


def _searched_domains(run: Path, manifest: Manifest) -> tuple[dict[str, Domain], bool]:
    """Return the domain of every name that a run's trials have a value of.

    Returns:
        The domains, and whether there is one for every name: a driver may have died before it
        made the study, or while it stored the first trial.
    """
    try:
        trials = read_trials(run, manifest)
    except RunFolderError:
        return {}, False
    domains = {
        name: domain_of(distribution)
        for trial in trials
        for name, distribution in trial.distributions.items()
    }
    return domains, any(RECORD_ATTRIBUTE in trial.user_attrs for trial in trials)
