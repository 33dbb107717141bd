"""What there is to compute with: the GPUs and cores that this process may use, often fewer than the machine's."""

import os
from pathlib import Path


def visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them: numbers, or UUIDs where a user wrote those."""
    import torch  # here: engines that compute nothing on a GPU start without it

    num_gpus = torch.cuda.device_count()  # without touching any; honours CUDA_VISIBLE_DEVICES, UUIDs and all
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(num_gpus)) if named is None else (name.strip() for name in named.split(","))
    return list(names)[:num_gpus]


def num_cores() -> int:
    """The cores of this process: fewer than the machine's where Slurm or taskset says so."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, int(os.environ.get("SLURM_CPUS_ON_NODE", there)))  # not every Slurm confines its jobs


def share_of_cores() -> int:
    """The cores for this process where torchrun started several on the machine; all of them where it did not."""
    return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


# Where a container's share of the memory stands, of either version of control groups.
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_bytes() -> int:
    """The memory of this process: less than the machine's where a container or a job has a share of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = [Path(path).read_text().strip() for path in _MEMORY_LIMITS if os.path.exists(path)]
    return min([machine, *(int(limit) for limit in said if limit.isdigit())])  # "max" is none
