"""The executor on Ray Tune: its workers train the trials, on this machine or on a cluster."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ray import tune

from castling.packages import PackageFunction
from castling.signals import handled
from castling.training.data import TrainingData
from search.config import SearchConfig
from search.execution.cluster import Resources, joined, least_cpus, machines, share
from search.execution.contract import Executor, Work
from search.execution.scheduler import RungScheduler
from search.execution.searcher import StopWhenTold, StudySearcher
from search.execution.worker import train_trial


ORDERLY_END_S = 12.0
"""How long trials may take to end after a signal; Slurm kills what is there after 30 s."""


@contextmanager
def tune_executor(config: SearchConfig, address: str | None) -> Iterator[Executor]:
    """Start Ray on this machine, or join a cluster, and yield an executor on it.

    Args:
        config: with the number of workers and their resources.
        address: of a cluster; None starts Ray on this machine.

    Raises:
        ClusterError: when Ray does not start here.
        ConfigError: when no cluster answers at the address, or not even one trial fits.
    """
    with joined(address, at_least=(config.workers or 1) * least_cpus(config)):
        yield TuneExecutor(share(machines(), config))


class TuneExecutor:
    """Lets Ray Tune run the trials; Ray's experiment state is deleted, the study is the truth."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def run(self, work: Work, data: TrainingData) -> None:
        """Train all proposals of the study; see `Executor`."""
        searcher = StudySearcher(work, self._resources)
        with _interruptible(searcher):
            self._tune(searcher, data)
        if searcher.failure is not None:
            raise searcher.failure
        if searcher.interrupted:
            raise KeyboardInterrupt

    def _tune(self, searcher: StudySearcher, data: TrainingData) -> None:
        state = tempfile.mkdtemp(prefix="castling-tune-")
        resources = tune.PlacementGroupFactory(self._resources.bundles())
        train = PackageFunction(train_trial.__module__, train_trial.__name__)
        trainable = tune.with_resources(tune.with_parameters(train, data=data), resources)
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
    """Turn the first signal into an orderly end; a second one, or time, ends at once."""
    main = threading.main_thread()
    if threading.current_thread() is not main:  # no signal arrives here
        yield
        return
    again = threading.Timer(ORDERLY_END_S, signal.pthread_kill, (main.ident, signal.SIGINT))
    again.daemon = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        if searcher.interrupted:
            signal.default_int_handler(number, frame)
        searcher.interrupted = True
        again.start()

    with handled(interrupt):
        try:
            yield
        finally:
            again.cancel()
