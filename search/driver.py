"""The driver: from a recipe to a run folder, trials trained by Ray Tune workers."""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray import tune

from castling.data.folder import folder_settings
from castling.errors import ConfigError, RunFolderError
from castling.training.checkpoint import remove_checkpoint
from castling.training.data import TrainingData, load_data
from castling.training.teacher import check_weights
from reports.database import complete_url
from reports.front import front_of
from reports.manifest import Manifest
from reports.records import (
    LATENCY_FILE,
    MANIFEST_FILE,
    Record,
    TrialState,
    training_path,
    weights_path,
)
from search.commands.display import Display
from search.config import SearchConfig, read_points, read_recipe
from search.execution.cluster import Resources, joined, share
from search.execution.scheduler import RungScheduler
from search.execution.searcher import StopWhenTold, StudySearcher
from search.execution.worker import train_trial
from search.samplers import Setting, check_points, check_sampler
from search.stoppers.rungs import Rungs
from search.study.resume import resumed_space
from search.study.run_folder import (
    check_not_lost,
    check_unused,
    locked,
    make_run_folder,
    new_manifest,
    open_storage,
    open_study,
    storage_checked,
)
from search.study.study import SearchStudy
from space.budget import Budget
from space.contract import check_operators
from space.point import Point, Space


if TYPE_CHECKING:
    from space.latency import LatencyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """How a search ended."""

    folder: Path
    trained: int
    """Trials trained to the end, those of earlier drivers included."""
    stopped: int
    """Trials that the stopper gave up early."""
    failed: int
    seconds: float
    """Wall-clock time of this driver."""
    exhausted: bool
    """Whether the space ran out of new points within the budget before enough were trained."""


def run(  # noqa: PLR0913 - the options of `castling search`
    recipe: str | SearchConfig | None,
    *,
    out: str | Path,
    resume: bool = False,
    max_macs: str | int | None = None,
    max_params: str | int | None = None,
    max_latency_ms: float | None = None,
    max: Mapping[str, str | float] | None = None,  # noqa: A002 - as in a recipe
    min: Mapping[str, str | float] | None = None,  # noqa: A002
    objectives: Sequence[Mapping[str, str]] | None = None,
    points: str | Path | Sequence[Point] | None = None,
    trials: int | None = None,
    workers: int | None = None,
    sampler: str | None = None,
    stopper: str | None = None,
    seed: int | None = None,
    images: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    address: str | None = None,
    storage: str | None = None,
    display: Display | None = None,
) -> SearchSummary:
    """Search, and return when the trials are trained.

    Args:
        recipe: name of a shipped recipe or of a space, a YAML file, or a config; None, to resume
            with the run's.
        out: the run folder, new or, to resume, an existing one.
        resume: go on with a run: no finished trial is repeated, interrupted ones continue.
        max_macs: budget of multiply-accumulates per image, such as "1.2M".
        max_params: budget of parameters.
        max_latency_ms: budget of milliseconds per image, by a table measured on this machine.
        max: bounds on other metrics to be low, such as {"train_seconds": 60}.
        min: bounds on metrics to be high, such as {"top1": 0.9}.
        objectives: what to trade off, each {"metric": ..., "direction": "max" or "min"}.
        points: to try first, or a YAML file of them; what one leaves out is the base's.
        trials: how many candidates to train.
        workers: how many at a time.
        sampler: who proposes them.
        stopper: who gives their training up early.
        seed: of the proposals.
        images: folder of class folders, or of train/ and test/ with them, to search on.
        settings: dotted config paths and values, such as {"train.epochs": 10}.
        address: of a Ray cluster; None starts Ray on this machine.
        storage: URL of a database for the study; None keeps it in the run folder. A password in
            it is used and not stored; CASTLING_STORAGE may hold the URL with it instead.
        display: what shows the progress.

    Raises:
        CastlingError: one of its kinds when recipe, budget, data or run folder are unusable.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the run is then resumable.
    """
    folder = Path(out).absolute()
    manifest = Manifest.read(folder) if resume else None
    config = _resolved(recipe, folder, manifest)
    limits = Budget.of(
        max_macs=max_macs, max_params=max_params, max_latency_ms=max_latency_ms, max=max, min=min
    )
    fields = {
        "trials": trials,
        "workers": workers,
        "sampler": sampler,
        "stopper": stopper,
        "seed": seed,
        "objectives": objectives,
        "points": _points(points),
    }
    config = _overridden(config, limits, fields, _settings(images, settings))
    space = config.build_space() if manifest is None else resumed_space(folder, manifest, config)
    table = config.latency_table(folder / LATENCY_FILE if resume else None)
    setting = _checked_setting(config, space, table)
    check_operators(space)
    data = load_data(space.base.data, space.base.model, space.base.task)
    check_weights(space.base)
    url = _database(storage, manifest)
    if manifest is None:
        _check_database(folder, url)
        make_run_folder(folder)
    with storage_checked(folder, url), locked(folder):
        if manifest is None:
            make_run_folder(folder)  # checked again: another driver may have been faster
        else:
            check_not_lost(folder, manifest, open_storage(folder, url))
        with joined(address, at_least=(config.workers or 1) * config.cpus_per_trial) as cluster:
            resources = share(cluster, config)
            if manifest is None:
                manifest = new_manifest(config, space, url)
                manifest.write(folder)
            search = _Search(folder, config, resources, display or Display())
            return search.run(search.open(url, setting, table), setting, data)


def _database(storage: str | None, manifest: Manifest | None) -> str | None:
    """Return the URL of a new or resumed run's database with its password, None for a journal."""
    if manifest is None:
        return None if storage is None else complete_url(storage, storage)
    if manifest.storage is not None:
        return complete_url(manifest.storage, storage)
    if storage is not None:
        rule = "must be left out: this run keeps its study in its folder"
        raise ConfigError("storage", rule)
    return None


def _check_database(folder: Path, url: str | None) -> None:
    """Raise ConfigError when a new run's database does not open, or is another run's."""
    if url is not None:
        with storage_checked(folder, url):
            check_unused(open_storage(folder, url))


def _resolved(
    recipe: str | SearchConfig | None, folder: Path, manifest: Manifest | None
) -> SearchConfig:
    """Return the search config of a recipe, or that of the run to resume."""
    if recipe is None:
        if manifest is None:
            raise RunFolderError(str(folder), "needs a recipe to start a search", "name one")
        return SearchConfig.from_data(manifest.recipe, str(folder / MANIFEST_FILE))
    return read_recipe(recipe) if isinstance(recipe, str) else recipe


def _settings(images: str | Path | None, settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what a folder of images asks for, and over it the settings that were given."""
    found = {} if images is None else folder_settings(images)
    return {**found, **(settings or {})}


def _checked_setting(config: SearchConfig, space: Space, table: "LatencyTable | None") -> Setting:
    """Return what a sampler may know, once sampler and first points are known to suit it."""
    setting = config.setting(space, table)
    check_sampler(config.sampler, setting)
    check_points(config.points, setting)
    return setting


def _points(given: str | Path | Sequence[Point] | None) -> Sequence[Point] | None:
    """Return the points to try first, read where they are a file."""
    return read_points(Path(given)) if isinstance(given, str | Path) else given


def _overridden(
    config: SearchConfig,
    limits: Budget,
    fields: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> SearchConfig:
    """Return a search config with the options that were given put over the recipe's."""
    given = {name: value for name, value in fields.items() if value is not None}
    return config.replace(
        **given, budget=limits.over(config.budget), set={**config.set, **settings}
    )


class _Search:
    """One driver's part of a search: Tune runs the trials, the study keeps the truth."""

    def __init__(
        self, folder: Path, config: SearchConfig, resources: Resources, display: Display
    ) -> None:
        self._folder, self._config, self._resources = folder, config, resources
        self._display = display
        self._trained: list[Record] = []

    def open(self, url: str | None, setting: Setting, table: "LatencyTable | None") -> SearchStudy:
        """Open the run's study, or make it; the URL is that of its database, if it has one."""
        if table is not None:
            table.keep_in(self._folder / LATENCY_FILE)
        store = open_storage(self._folder, url)
        study = open_study(store, self._config.objectives)
        return SearchStudy(study, store, self._config, setting, self.on_record)

    def run(self, study: SearchStudy, setting: Setting, data: TrainingData) -> SearchSummary:
        """Train trials until there are enough; raise what ended the search early."""
        started = time.monotonic()
        self._trained = [record for record in study.records if record.state == TrialState.TRAINED]
        config = self._config
        title = f"{config.space} within {config.budget.words(short=True) or 'no budget'}"
        self._display.start(title, config.trials, study.records, config.objectives, config.budget)
        rungs = Rungs.of(self._config.stopper, setting)
        rungs.read_back(self._folder, [*study.records, *study.running.values()])
        searcher = StudySearcher(
            study,
            rungs,
            self._folder,
            self._resources,
            self._display.progress,
            self._config.trial_minutes,
        )
        try:
            with _interruptible(searcher):
                self._tune(searcher, data)
        finally:
            self._display.stop()
        if searcher.failure is not None:
            raise searcher.failure
        if searcher.interrupted:
            raise KeyboardInterrupt
        return SearchSummary(
            folder=self._folder,
            trained=len(self._trained),
            stopped=sum(record.state == TrialState.STOPPED for record in study.records),
            failed=sum(record.state == TrialState.FAILED for record in study.records),
            seconds=time.monotonic() - started,
            exhausted=study.exhausted,
        )

    def on_record(self, record: Record) -> None:
        """Show a record, and keep the weights of the front only."""
        self._display.record(record)
        if record.replay_of is not None or record.state not in (
            TrialState.TRAINED,
            TrialState.STOPPED,
            TrialState.FAILED,
        ):
            return
        remove_checkpoint(training_path(self._folder, record.trial))
        if record.state == TrialState.TRAINED:
            self._trained.append(record)
            front = front_of(self._trained, self._config.objectives, self._config.budget)
            kept = {*front["trial"]}
            for other in self._trained:
                if other.trial not in kept:
                    weights_path(self._folder, other.trial).unlink(missing_ok=True)

    def _tune(self, searcher: StudySearcher, data: TrainingData) -> None:
        """Run Tune until the searcher has no more trials; Ray's own state is thrown away."""
        state = tempfile.mkdtemp(prefix="castling-tune-")
        resources = {
            "cpu": self._resources.cpus_per_trial,
            "gpu": self._resources.gpus_per_trial,
        }
        trainable = tune.with_resources(tune.with_parameters(train_trial, data=data), resources)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=RungScheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=self._resources.workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=state, verbose=0, stop=StopWhenTold(searcher)
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(state, ignore_errors=True)


@contextmanager
def _interruptible(searcher: StudySearcher) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into an orderly end; a second one ends at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if searcher.interrupted:
            signal.default_int_handler(number, frame)
        searcher.interrupted = True

    try:
        earlier = {
            number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
