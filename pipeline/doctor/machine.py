"""Findings about the machine: system, Python, packages, CUDA, libjpeg-turbo, FFCV, disk, shared memory, open files.

Torch is imported only where there is a GPU's driver to try it with.
"""

import ctypes
import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from backdrop.child_processes import SHARED_MEMORY, check_shared_memory
from backdrop.data_folders import ARTIFACTS
from backdrop.devices import num_cores
from backdrop.errors import UserError
from backdrop.pipeline.beton import turbojpeg
from backdrop.pipeline.doctor.finding import Finding
from backdrop.pipeline.versions import PACKAGES, cuda_of_torch, nvidia_driver
from backdrop.stores.format.provenance import version_of

_GB = 10**9
# A training on a CPU and its loader, or one worker of a build that uses torch.
ENOUGH_MEMORY_GB = 4
# The environment is 6.5 GB; masks, backgrounds and the .beton of ImageNet at the paper's size take hundreds.
ENOUGH_DISK_GB = 10
# What a container has by default, 64 MB, is too little for a training's loader.
ENOUGH_SHARED_MEMORY = _GB
# A usual limit; a loader of several processes, a store with its parts and the .beton stay far below it.
ENOUGH_OPEN_FILES = 1024
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
SYSTEM_PACKAGES = "pkg-config g++ libopencv-dev libturbojpeg0-dev"


def machine() -> list[Finding]:
    """Look at everything but the data; nothing is left behind."""
    return [
        system(),
        python(),
        packages(),
        cuda(),
        libjpeg_turbo(),
        ffcv(),
        disk(ARTIFACTS),
        shared_memory(),
        open_files(),
    ]


def system() -> Finding:
    """Look at the operating system, the cores and the memory."""
    name, kind = platform.system(), platform.machine()
    found = f"{name} {kind}, {_count(num_cores(), 'core')}"
    if name != "Linux":
        to_do = "Backdrop runs on Linux alone: take a Linux machine, WSL 2 or a container"
        return Finding(subject="system", state="problem", found=found, to_do=to_do)
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    found += f", {memory_gb:.0f} GB of memory"
    if memory_gb < ENOUGH_MEMORY_GB:
        to_do = f"less than {ENOUGH_MEMORY_GB} GB: build stores with --workers 1"
        return Finding(subject="system", state="note", found=found, to_do=to_do)
    return Finding(subject="system", state="ok", found=found)


def python(version: tuple[int, ...] | None = None) -> Finding:
    """Look at Python's version. Args: version: major, minor, micro; None = this process's."""
    given = tuple(version or sys.version_info[:3])
    found = f"{'.'.join(map(str, given))}, {sys.executable}"
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST_PYTHON, NEWEST_PYTHON))
    if given[:2] < OLDEST_PYTHON:
        to_do = f"Backdrop needs {oldest} or newer: make clean, then make PYTHON=/path/to/python{oldest} demo"
        return Finding(subject="Python", state="problem", found=found, to_do=to_do)
    if given[:2] > NEWEST_PYTHON:
        to_do = f"nobody has tried it: {oldest} to {newest} are known to work"
        return Finding(subject="Python", state="note", found=found, to_do=to_do)
    return Finding(subject="Python", state="ok", found=found)


def packages(names: Sequence[str] = PACKAGES) -> Finding:
    """Look which packages are not installed. Args: names: as the package index has them."""
    installed = {name: version_of(name) for name in names}
    missing = [name for name, version in installed.items() if version is None]
    if missing:
        to_do = "pip install the wheel again; in a checkout: make clean, then make demo"
        return Finding(subject="packages", state="problem", found=f"missing: {', '.join(missing)}", to_do=to_do)
    found = ", ".join(f"{name} {version}" for name, version in installed.items())
    return Finding(subject="packages", state="ok", found=found)


def cuda() -> Finding:
    """Look for GPUs that torch can use; imports torch where there is a driver and a build for it."""
    driver, built_for = nvidia_driver(), cuda_of_torch()
    found = f"driver: {driver}; {built_for}"
    if driver == "none":
        to_do = "without a GPU pretrain takes the recipe smoke, which is no row of a paper"
        return Finding(subject="CUDA", state="note", found=found, to_do=to_do)
    if not built_for.startswith("torch built for"):
        to_do = "the GPU is not used: install the build of torch for CUDA, pip install --force-reinstall torch"
        return Finding(subject="CUDA", state="problem", found=found, to_do=to_do)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = _names_of_gpus()
    if gpus:
        return Finding(subject="CUDA", state="ok", found=f"{', '.join(gpus)}; {found}")
    if hidden is not None:
        to_do = "it hides every GPU: unset CUDA_VISIBLE_DEVICES to use them"
        return Finding(subject="CUDA", state="note", found=f"CUDA_VISIBLE_DEVICES={hidden!r}; {found}", to_do=to_do)
    to_do = "torch sees no GPU: update the driver to one for that CUDA (a container: docker run --gpus all)"
    return Finding(subject="CUDA", state="problem", found=found, to_do=to_do)


def _names_of_gpus() -> list[str]:
    import warnings

    import torch  # seconds: only here

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver too old: said in the finding
        if not torch.cuda.is_available():
            return []
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def libjpeg_turbo() -> Finding:
    """Look whether what decodes images for the loader can be loaded."""
    try:
        turbojpeg.load()
    except UserError as error:
        found, _, to_do = str(error).partition(": ")
        return Finding(subject="libjpeg-turbo", state="problem", found=found, to_do=to_do)
    return Finding(subject="libjpeg-turbo", state="ok", found="loads")


def ffcv() -> Finding:
    """Look whether FFCV's compiled part can be loaded, without importing FFCV, which imports torch."""
    spec = importlib.util.find_spec("ffcv")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    libraries = [path for folder in folders for path in sorted(Path(folder).glob("_libffcv*.so"))]
    if not libraries:
        to_do = (
            f"to read .beton files with FFCV itself: apt-get install {SYSTEM_PACKAGES}, then pip install ffcv==1.0.2"
        )
        return Finding(subject="FFCV", state="note", found="not installed, or not compiled", to_do=to_do)
    try:
        ctypes.CDLL(str(libraries[0]))
    except OSError as error:
        to_do = (
            f"apt-get install {SYSTEM_PACKAGES}; where they are another version now, compile it anew: "
            "pip install --force-reinstall --no-deps --no-cache-dir ffcv==1.0.2"
        )
        return Finding(subject="FFCV", state="problem", found=f"does not load: {error}", to_do=to_do)
    return Finding(subject="FFCV", state="ok", found=f"{version_of('ffcv')}, its compiled part loads")


def disk(folder: Path) -> Finding:
    """Look whether a folder, or the one where it would be made, may be written, and what is free there."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / _GB
    found = f"{free_gb:,.0f} GB free for {folder}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        to_do = "go to a folder of your own, or name another place with --out"
        return Finding(subject="disk", state="problem", found=f"{there} cannot be written", to_do=to_do)
    if free_gb < ENOUGH_DISK_GB:
        to_do = "free space, or name another disk with --out; build-store --plan says what a store takes"
        return Finding(subject="disk", state="note", found=found, to_do=to_do)
    return Finding(subject="disk", state="ok", found=found)


def shared_memory() -> Finding:
    """Look whether processes can share memory and locks, and how much."""
    try:
        check_shared_memory("work in several processes")
    except UserError as error:
        found, _, to_do = str(error).partition("; ")
        return Finding(subject="shared memory", state="problem", found=found, to_do=to_do)
    free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else ENOUGH_SHARED_MEMORY
    found = f"{free / _GB:,.2f} GB free in {SHARED_MEMORY}"
    if free < ENOUGH_SHARED_MEMORY:
        to_do = f"mount -o remount,size=1G {SHARED_MEMORY} (a container: docker run --shm-size=1g)"
        return Finding(subject="shared memory", state="note", found=found, to_do=to_do)
    return Finding(subject="shared memory", state="ok", found=found)


def open_files() -> Finding:
    """Look how many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_OPEN_FILES:
        return Finding(subject="open files", state="ok", found=f"{soft:,} to a process")
    to_do = f"ulimit -n {ENOUGH_OPEN_FILES}"
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_OPEN_FILES:
        to_do = f"have the machine's owner raise it to {ENOUGH_OPEN_FILES} (it may not be more than {hard:,} now)"
    return Finding(subject="open files", state="note", found=f"{soft:,} to a process", to_do=to_do)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
