"""The versions that matter in a report of a fault, read without importing what they are of."""

import importlib.metadata
import platform
import re
from pathlib import Path

from backdrop.pipeline.beton.layout import FORMAT_VERSION
from backdrop.stores.format.provenance import commit, version_of
from backdrop.stores.format.schema import SCHEMA_VERSION

PACKAGES = ("torch", "torchvision", "zarr", "numba", "numpy", "opencv-python-headless")
OPTIONAL = ("ffcv",)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """Return name -> version: Backdrop and its commit, Python, the packages, CUDA, the formats of stores and .beton."""
    return {
        "backdrop": f"{version_of('backdrop-ssl') or 'not installed'} (commit {commit()})",
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name.removesuffix("-headless"): version_of(name) or "not installed" for name in (*PACKAGES, *OPTIONAL)},
        "cuda": f"{cuda_of_torch()}; driver: {nvidia_driver()}",
        "store schema": SCHEMA_VERSION,
        "beton format": str(FORMAT_VERSION),
    }


def cuda_of_torch() -> str:
    """Say which CUDA torch was built for, from the file of versions in its package."""
    try:
        text = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return "no torch"
    found = re.search(r"^cuda\b.*= '(.+)'$", text, flags=re.MULTILINE)
    return f"torch built for {found[1]}" if found else "torch built without"


def nvidia_driver() -> str:
    """Return the version of NVIDIA's driver, "none" where none is loaded."""
    try:
        text = NVIDIA_DRIVER.read_text()
    except OSError:
        return "none"
    found = re.search(r"Kernel Module.*?(\d+(?:\.\d+)+)", text)
    return found[1] if found else text.splitlines()[0]
