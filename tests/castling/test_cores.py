"""Cores by affinity, really set, and by quotas of cgroups in files as Linux writes them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from castling.cores import available_cores, limit_torch_threads


ALL = len(os.sched_getaffinity(0))


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def process(folder: Path, groups: str, mount: str, filesystem: str, files: dict[str, str]) -> Path:
    """Write what Linux says of a process and its cgroups; returns its folder below /proc."""
    proc, place = folder / "proc", folder / "cg roup"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    shown = str(place).replace(" ", "\\040")
    (proc / "mountinfo").write_text(
        "22 1 0:21 / /proc rw shared:5 - proc proc rw\n"
        f"30 22 0:26 {mount} {shown} rw,nosuid shared:9 - {filesystem}\n"
    )
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc


V2, V1 = "cgroup2 cgroup2 rw", "cgroup cgroup rw,cpu,cpuacct"
FIRST = "7:memory:/other\n4:cpu,cpuacct:/job\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("groups", "mount", "filesystem", "files", "cores"),
    [
        ("0::/\n", "/", V2, {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", "/", V2, {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", "/", V2, {"cpu.max": "max 100000\n"}, ALL),
        ("0::/a/b\n", "/", V2, {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/pod/one\n", "/pod", V2, {"one/cpu.max": "190000 100000"}, 1),
        ("0::/../other\n", "/", V2, {"cpu.max": "100000 100000"}, 1),
        ("0::/a\n", "/", V2, {}, ALL),
        ("0::/a\n", "/", V2, {"a/cpu.max": "nonsense"}, ALL),
        (FIRST, "/", V1, {"job/cpu.cfs_quota_us": "150000", "job/cpu.cfs_period_us": "100000"}, 1),
        (FIRST, "/job", V1, {"cpu.cfs_quota_us": "9000", "cpu.cfs_period_us": "10000"}, 1),
        (FIRST, "/", V1, {"job/cpu.cfs_quota_us": "-1", "job/cpu.cfs_period_us": "100000"}, ALL),
        (FIRST, "/", V1, {"job/cpu.cfs_quota_us": "1000"}, ALL),
    ],
)
def test_quotas_of_the_group_and_of_those_above_bound_the_cores(
    groups: str, mount: str, filesystem: str, files: dict[str, str], cores: int, tmp_path: Path
) -> None:
    assert available_cores(process(tmp_path, groups, mount, filesystem, files)) == cores


def test_a_machine_without_cgroups_has_the_cores_of_the_affinity(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == ALL


def test_affinity_bounds_cores_and_torchs_threads(one_core: None) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert available_cores() == 1
        limit_torch_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
