"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# As the command line sets it, before any test imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real photographs (../shared/data) is not there")
    return SHARED_DATA
