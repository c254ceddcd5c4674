"""How a cluster is divided among trials, without Ray."""

from pathlib import Path
from typing import Any

import pytest
from ray._private.worker import print_to_stdstream
from typer.testing import CliRunner

from castling.errors import ConfigError
from search.cli import app
from search.config import SearchConfig
from search.execution import peers
from search.execution.cluster import expected_trainings, share


GPUS = [{"CPU": 64.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}]
"""Machines of a cluster, the first without GPUs."""
CPUS = [{"CPU": 2.0}, {"CPU": 2.0}]


def of(**fields: Any) -> SearchConfig:
    return SearchConfig.from_data(fields)


@pytest.mark.parametrize(
    ("nodes", "fields", "bundles", "workers"),
    [
        (CPUS, {}, [{"CPU": 1.0}], 4),
        (CPUS, {"cpus_per_trial": 2}, [{"CPU": 2.0}], 2),
        (CPUS, {"workers_per_trial": 2}, [{"CPU": 1.0}] * 2, 2),
        (CPUS, {"workers_per_trial": 2, "cpus_per_trial": 4}, [{"CPU": 2.0}] * 2, 1),
        (CPUS, {"workers": 3}, [{"CPU": 1.0}], 3),
        (GPUS, {}, [{"CPU": 8.0, "GPU": 1.0}], 6),
        (GPUS, {"trials": 4}, [{"CPU": 8.0, "GPU": 1.0}], 4),
        (GPUS, {"gpus_per_trial": 0}, [{"CPU": 1.0}], 32),
        (GPUS, {"gpus_per_trial": 0.5}, [{"CPU": 4.0, "GPU": 0.5}], 12),
        (GPUS, {"gpus_per_trial": 1, "cpus_per_trial": 4}, [{"CPU": 4.0, "GPU": 1.0}], 6),
        (GPUS, {"gpus_per_trial": 2}, [{"CPU": 8.0, "GPU": 1.0}] * 2, 3),
        (GPUS, {"workers_per_trial": 3}, [{"CPU": 8.0, "GPU": 1.0}] * 3, 2),
        (GPUS, {"workers_per_trial": 3, "gpus_per_trial": 0}, [{"CPU": 1.0}] * 3, 32),
    ],
)
def test_a_trial_has_a_gpu_of_its_own_and_a_share_of_the_cores(
    nodes: Any, fields: dict[str, Any], bundles: list[dict[str, float]], workers: int
) -> None:
    resources = share(nodes, of(**fields))
    assert resources.bundles() == bundles
    assert resources.workers == workers


@pytest.mark.parametrize(
    ("nodes", "fields", "words"),
    [
        (CPUS, {"cpus_per_trial": 5}, "cpus_per_trial: must be at most 4, the CPUs that Ray has"),
        (CPUS, {"cpus_per_trial": 3}, "cpus_per_trial: must be less: Ray has not a machine 3 CPU"),
        (CPUS, {"workers_per_trial": 5}, "workers_per_trial: must be at most 4, the CPUs"),
        (CPUS, {"gpus_per_trial": 0.5}, "gpus_per_trial: must be at most 0, the GPUs that Ray"),
        (GPUS, {"gpus_per_trial": 7}, "gpus_per_trial: must be at most 6, the GPUs that Ray has"),
        (GPUS, {"workers_per_trial": 7}, "must be at most 6.*set gpus_per_trial: 0 to train on"),
        (GPUS, {"gpus_per_trial": 1, "cpus_per_trial": 40}, "Ray has not .* 40 CPUs and 1 GPUs"),
    ],
)
def test_a_trial_that_no_machine_has_room_for_is_refused(
    nodes: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        share(nodes, of(**fields))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gpus_per_trial: 1.5", "must be a whole number, or a fraction below 1"),
        ("gpus_per_trial: 2.25", "must be a whole number, or a fraction below 1"),
        ("gpus_per_trial: -1", "greater than or equal to 0"),
        ("{workers_per_trial: 2, gpus_per_trial: 0.5}", "must be null, 0 or 2"),
        ("{workers_per_trial: 2, gpus_per_trial: 3}", "must be null, 0 or 2"),
        ("{workers_per_trial: 2, cpus_per_trial: 1}", "must be at least 2, a core for each"),
        ("workers_per_trial: 0", "greater than or equal to 1"),
        ("workers_per_trial: 1.5", "must be"),
    ],
)
def test_processes_that_cannot_share_are_one_sentence(
    line: str, words: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(line)
    command = ["search", str(recipe), "--out", str(tmp_path / "run")]
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert words in str(caught.value)
    assert caught.value.is_bad_input
    assert not (tmp_path / "run").exists()


def test_processes_of_a_trial_count_as_trainings_of_a_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.execution.cluster.available_cores", lambda: 8)
    assert expected_trainings(of()) == 8
    assert expected_trainings(of(workers_per_trial=4)) == 8
    assert expected_trainings(of(workers_per_trial=4, cpus_per_trial=8)) == 4


@pytest.mark.parametrize(("gpus", "fractions"), [(0.0, []), (0.25, [0.2375]), (1.0, [])])
def test_processes_that_share_a_gpu_share_its_memory(
    gpus: float, fractions: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", found.append)
    peers.limit_memory(gpus)
    assert found == fractions


def test_rays_remarks_on_dead_workers_are_not_among_the_results(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    remark = {"lines": ["A worker died or was killed"], "pid": "raylet", "is_err": False}
    print_to_stdstream(remark, ignore_prefix=False)
    assert capsys.readouterr().out == ""
