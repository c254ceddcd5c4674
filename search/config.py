"""The config of a search: a recipe in YAML, checked, with the space that it searches."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from castling.config import Config, RunConfig
from castling.config.limits import MOST_DIMENSIONS, MOST_REPEATS, MOST_TRIALS, MOST_WORKERS
from castling.errors import ConfigError, UnknownNameError
from castling.model.check import run_config
from castling.operators import OPERATORS
from castling.training.recipes import training_settings
from castling.untrusted.plain_yaml import parse_yaml, read_yaml
from reports.records import Objective
from search.context import SearchContext
from search.objectives import check_objectives
from search.recipes import RECIPES
from search.samplers.naming import sampler_named
from search.stoppers import NO_STOPPER, STOPPERS
from search.strategies import STRATEGIES
from space.budget import Budget
from space.catalogue import DimensionConfig
from space.decode import decode
from space.point import Dimension, Space
from space.presets import SPACES
from space.target import Target


if TYPE_CHECKING:
    from space.latency import LatencyTable


class SearchConfig(Config):
    """A complete search: space, budget, sampler, number of trials, resources."""

    name: str = "unnamed"
    """Name of the search in reports; by default the name of the recipe."""
    space: str = "digits"
    """A preset, a name of `castling spaces`."""
    training: str | None = None
    """A training recipe, a name of `castling recipes` or a YAML file; it replaces fields of the
    preset's base config, which are then not searched unless `dimensions` names them."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted config paths and the values that replace those of the preset's base config and of the
    training recipe."""
    dimensions: tuple[DimensionConfig, ...] = Field(default=(), max_length=MOST_DIMENSIONS)
    """Dimensions to add to the preset; one with the target of a preset's dimension replaces it."""
    trials: int = Field(default=32, ge=1, le=MOST_TRIALS)
    """How many candidates to train."""
    repeats: int = Field(default=1, ge=1, le=MOST_REPEATS)
    """Trainings of each candidate, with different seeds: a metric of the trial is their mean,
    NAME_std their standard deviation, and the weights are those of the median training."""
    budget: Budget = Budget()
    """Bounds on metrics; no candidate beyond one on a cost is trained."""
    objectives: tuple[Objective, ...] = (
        Objective(metric="top1", direction="max"),
        Objective(metric="macs", direction="min"),
    )
    """What the front trades off."""
    strategy: str = "trials"
    """Where candidates come from: `trials` asks the sampler for one after the other."""
    points: tuple[dict[str, Any], ...] = Field(default=(), max_length=MOST_DIMENSIONS)
    """Points to try first; a dimension that a point leaves out has the value of the base
    config, and model.blocks.*.FIELD stands for every block."""
    sampler: str = "pareto"
    """The sampler: a name of `castling samplers`, or `optuna:` and the name of a class of
    Optuna."""
    stopper: str = NO_STOPPER
    """The rule that stops trainings early: a name of `castling stoppers`."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the proposals, and of trainings where `train.seed` is `trial`."""
    workers: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    """Candidates trained at a time; null fills the machine or cluster."""
    workers_per_trial: int = Field(default=1, ge=1, le=MOST_WORKERS)
    """Processes that train a candidate together, each on a part of every batch; as many as
    `gpus_per_trial` where that is more than 1."""
    cpus_per_trial: int | None = Field(default=None, ge=1, le=MOST_WORKERS)
    """CPU cores of each candidate, which its processes share as torch threads. null: on the CPU
    one for each process; on GPUs the machine's cores divided by its GPUs."""
    gpus_per_trial: float | None = Field(default=None, ge=0.0, le=MOST_WORKERS)
    """GPUs of each candidate: a fraction below 1 shares a GPU and its memory; above 1, a whole
    number, each GPU has a process of its own. null: one for each process where Ray has GPUs; 0
    trains on the CPU."""
    max_refusals: int = Field(default=100, ge=1, le=MOST_TRIALS)
    """Rejected or repeated proposals in a row after which one is projected into the budget; after
    as many more the search ends."""

    retries: int = Field(default=1, ge=0, le=MOST_TRIALS)
    """How often a trial goes on from its checkpoint after its worker or machine died."""
    double_accumulation: bool = False
    """Whether a trial that ran out of memory goes on with each batch in twice as many parts."""
    trial_minutes: float | None = Field(default=None, gt=0.0, le=1e6)
    """How long a driver lets a trial train, all its repeats together, before it fails as hanging;
    null waits for ever."""

    @model_validator(mode="before")
    @classmethod
    def _read_halve_batch(cls, data: object) -> object:
        """Take `halve_batch`, of earlier versions, as what does today what it was for."""
        if not isinstance(data, dict) or "halve_batch" not in data:
            return data
        others = {name: value for name, value in data.items() if name != "halve_batch"}
        return {"double_accumulation": data["halve_batch"], **others}

    @property
    def processes_per_trial(self) -> int:
        """How many processes train a candidate together."""
        return max(self.workers_per_trial, int(self.gpus_per_trial or 0.0))

    @model_validator(mode="after")
    def _processes_have_their_own(self) -> Self:
        workers, gpus, cpus = self.workers_per_trial, self.gpus_per_trial, self.cpus_per_trial
        if gpus is not None and gpus > 1.0 and gpus != int(gpus):
            rule = "must be a whole number, or a fraction below 1 that shares a GPU"
            raise ConfigError("gpus_per_trial", rule, gpus, "set 1, or 2 for two processes")
        if workers > 1 and gpus not in (None, 0.0, float(workers)):
            rule = f"must be null, 0 or {workers}, a GPU for each of workers_per_trial"
            raise ConfigError("gpus_per_trial", rule, gpus)
        if cpus is not None and cpus < self.processes_per_trial:
            rule = f"must be at least {self.processes_per_trial}, a core for each process"
            raise ConfigError("cpus_per_trial", rule, cpus)
        return self

    @model_validator(mode="after")
    def _no_target_twice(self) -> Self:
        targets = [dimension.target for dimension in self.dimensions]
        for target in targets:
            if targets.count(target) > 1:
                raise ConfigError("dimensions", "must not repeat a target", target)
        return self

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        try:
            sampler_named(self.sampler)
        except UnknownNameError as error:
            rule = f"must be one of {', '.join(error.known)}"
            raise ConfigError("sampler", rule, self.sampler) from None
        if self.stopper not in STOPPERS:
            raise ConfigError("stopper", f"must be one of {', '.join(STOPPERS)}", self.stopper)
        if self.strategy not in STRATEGIES:
            raise ConfigError("strategy", f"must be one of {', '.join(STRATEGIES)}", self.strategy)
        check_objectives(self.objectives)
        if self.repeats > 1 and self.stopper != NO_STOPPER:
            rule = f"must be {NO_STOPPER} with repeats above 1, as it judges single trainings"
            fix = f"set stopper: {NO_STOPPER}, or repeats: 1"
            raise ConfigError("stopper", rule, self.stopper, fix)
        return self

    def latency_table(self, path: Path | None = None) -> "LatencyTable | None":
        """Return a latency table, in a file or in memory; None where latency does not count."""
        metrics = {goal.metric for goal in self.objectives}
        metrics |= {bound.metric.name for bound in self.budget.bounds()}
        if "latency_ms" not in metrics:
            return None
        from space.latency import LatencyTable

        return LatencyTable(path)

    def context(self, space: Space, table: "LatencyTable | None" = None) -> SearchContext:
        """Return what the parts of the search must know of it; see `SearchContext.of`."""
        return SearchContext.of(self, space, table)

    def build_space(self) -> Space:
        """Return the preset with its settings and dimensions changed.

        Raises:
            ConfigError: when there is no such preset or training recipe, or when a setting or
                target is no field of RunConfig or does not fit.
        """
        if self.space not in SPACES:
            raise ConfigError("space", f"must be one of {', '.join(SPACES)}", self.space)
        preset = SPACES[self.space]()
        training = {} if self.training is None else training_settings(self.training, preset.base)
        replaced = {**training, **self.set}
        base = with_settings(preset.base, replaced)
        declared = {Target(config.target): config.dimension() for config in self.dimensions}
        settings = [Target(path) for path in replaced]
        free = [
            declared.pop(dim.target, dim)
            for dim in preset.dimensions
            if dim.target in declared or not any(map(dim.target.is_within, settings))
        ]
        space = Space(
            name=preset.name,
            base=base,
            dimensions=(*free, *declared.values()),
            num_stages=preset.num_stages,
        )
        check_dimensions(space)
        _check_settings(space, self.set)
        return space


def _check_settings(space: Space, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError when a dimension would silently overrule a setting."""
    for path in settings:
        for dimension in space.dimensions:
            if Target(path).of_every_block.is_within(dimension.target):
                target = dimension.target.path
                rule = f"must not be set: {target} is searched"
                fix = f"set {target}, or leave it to the search"
                raise ConfigError(f"set.{path}", rule, fix=fix)


def with_settings(run: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return a config with the values at some dotted paths replaced.

    `model.blocks.*.FIELD` sets a field of every block, `model.blocks.2.FIELD` of one.
    """
    data = run.to_data()
    for path, value in settings.items():
        try:
            Target(path).set(data, value)
        except ConfigError as error:
            raise ConfigError(f"set.{path}", error.rule, error.value) from None
    return run_config(data, "set")


def check_dimensions(space: Space) -> None:
    """Raise ConfigError unless every dimension's target is a field that takes its values."""
    for dimension in space.dimensions:
        place = f"dimensions: {dimension.target}"
        if dimension.target.is_set_by_data:
            rule = "is the data's, the same for all trials, and cannot be searched"
            raise ConfigError(place, rule)
        if dimension.target.option is not None:
            _check_option(space, dimension, dimension.target.option)
            continue
        alone = dataclasses.replace(space, dimensions=(dimension,))
        for value in dimension.domain.extremes():
            try:
                decode(alone, dict.fromkeys(alone.domains, value))
            except ConfigError as error:
                raise ConfigError(place, f"cannot be {value!r} ({error})") from None


def _check_option(space: Space, dimension: Dimension, name: str) -> None:
    """Raise ConfigError unless an operator that may be chosen has the option and its values."""
    chosen = [dim.domain.extremes() for dim in space.dimensions if dim.target.is_operator]
    operators = chosen[0] if chosen else {block.operator for block in space.base.model.blocks}
    having = [
        str(operator)
        for operator in operators
        if name in OPERATORS[str(operator)].options.model_fields
    ]
    place = f"dimensions: {dimension.target}"
    if not having:
        raise ConfigError(place, "must be an option of an operator that the space may choose")
    for value in dimension.domain.extremes():
        problems = []
        for operator in having:
            try:
                OPERATORS[operator].options(**{name: value})
            except ConfigError as error:
                problems.append(f"{error}; {operator}")
        if len(problems) == len(having):
            raise ConfigError(place, f"cannot be {value!r} ({problems[0]})")


def read_points(path: Path) -> list[dict[str, Any]]:
    """Return the points of a YAML file: a list of mappings from dimensions to values.

    Raises:
        ConfigError: when the file is missing or holds something else.
    """
    data = read_yaml(path)
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        rule = "must be a list of points, each a mapping from dimensions to values"
        raise ConfigError(str(path), rule, data)
    return [{str(name): value for name, value in entry.items()} for entry in data]


def read_recipe(recipe: str) -> SearchConfig:
    """Return the search of a recipe's name, of a space's name, or of a YAML file.

    A space's name stands for the recipe that searches it by the defaults.

    Raises:
        UnknownNameError: when it is neither.
        ConfigError: when the YAML is malformed or breaks a rule.
    """
    if recipe in RECIPES:
        return _named(recipe, parse_yaml(RECIPES[recipe].text, recipe), recipe)
    if recipe in SPACES:
        return SearchConfig(name=recipe, space=recipe)
    path = Path(recipe)
    if not path.is_file():
        known = sorted({*RECIPES, *SPACES})
        raise UnknownNameError("recipe", recipe, [*known, "or the path of a YAML file"])
    return _named(path.stem, read_yaml(path), recipe)


def _named(name: str, data: object, where: str) -> SearchConfig:
    named = {"name": name, **data} if isinstance(data, dict) else data
    return SearchConfig.from_data(named, where)
