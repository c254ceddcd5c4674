"""A sampler, or a stopper, is one file: those on the pages, searched, resumed, gone."""

from pathlib import Path

import pytest
from plugin import install, run_with

import reports
import search
from castling.errors import ConfigError
from search.samplers import SAMPLERS
from search.stoppers import STOPPERS


pytestmark = pytest.mark.timeout(240)


def test_a_sampler_and_a_stopper_of_one_file_each_are_listed_searched_resumed_and_gone(
    tmp_path: Path,
) -> None:
    site, run = tmp_path / "site", tmp_path / "run"
    for page in ("adding-a-sampler.md", "adding-a-stopper.md"):
        install(page, site)
    settings = "--set|train.epochs=4|--set|data.num_train=200|--workers|1"
    commands = ["samplers", "stoppers"]
    commands += [
        f"search|digits|--sampler|neighbours|--stopper|quartile|{settings}|--trials|4|--out|{run}",
        f"search|--out|{run}|--resume|--trials|6",
        f"front|{run}",
    ]
    ran = run_with(site, commands)
    assert ran.returncode == 0, ran.stderr
    assert "points of the front with one or a few values changed" in ran.stdout
    assert "the worst quarter of the trials at a rung is given up" in ran.stdout
    trials = reports.load(run, refused=True)  # which needs neither of them
    assert set(trials.state) == {"trained", "stopped"}
    assert len(trials) == 6
    assert "neighbours" not in SAMPLERS
    assert "quartile" not in STOPPERS
    with pytest.raises(ConfigError, match=r"sampler: must be one of gp, .*, got 'neighbours'"):
        search.run(None, out=run, resume=True)
