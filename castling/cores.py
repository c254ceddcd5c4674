"""The CPU cores that this process may use: those of its affinity, within its cgroups' quota."""

import os
from collections.abc import Iterator
from pathlib import Path


PROC = Path("/proc/self")
"""Where Linux describes this process: its cgroups, and where they are mounted."""


def available_cores(proc: Path = PROC) -> int:
    """Return how many cores this process may use, at least 1.

    `os.cpu_count` counts those of the whole machine, also within `taskset`, a job of Slurm or a
    container, where more threads or processes than these only wait for one another.

    Args:
        proc: the folder of a process below /proc.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # no Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(proc))]))


def limit_torch_threads() -> None:
    """Let torch use no more threads than cores; it sees the affinity, but not the quota."""
    import torch

    cores = available_cores()
    if torch.get_num_threads() > cores:
        torch.set_num_threads(cores)


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the CPU quotas of this process's cgroups and of all above them, in cores."""
    for mount, group, is_second_version in _groups(proc):
        for folder in (group, *group.parents):
            quota = _second_version(folder) if is_second_version else _first_version(folder)
            if quota is not None:
                yield quota
            if folder == mount:
                break


def _second_version(folder: Path) -> float | None:
    """Return the cores of a line such as `150000 100000`: microseconds in each period."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no file, or `max`
        return None


def _first_version(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota < 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _groups(proc: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Yield mount, folder and whether it is of the second version, of each cgroup with CPUs."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return
    # lines as `0::/job_7`, or `4:cpu,cpuacct:/job_7` in the first version
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in groups)}
    for line in mounts:
        fields, _, filesystem = line.partition(" - ")
        kind, _, options = (*filesystem.split(" ", 2), "", "")[:3]
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and "cpu" in options.split(","):
            path = next((paths[name] for name in paths if "cpu" in name.split(",")), None)
        else:
            continue
        if path is not None:
            root, mount = (_unescaped(field) for field in fields.split(" ")[3:5])
            yield Path(mount), _within(Path(mount), root, path), kind == "cgroup2"


def _within(mount: Path, root: str, path: str) -> Path:
    """Return the folder of a cgroup; a container may see only a part of the tree as mounted."""
    part = path.removeprefix(root.rstrip("/"))
    is_below = path.startswith(root.rstrip("/")) and ".." not in part.split("/")
    return mount / part.strip("/") if is_below else mount


def _unescaped(field: str) -> str:
    """Return a path of mountinfo, which writes a space as its octal number."""
    return field.encode().decode("unicode_escape") if "\\" in field else field
