"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.material.browser import MISSING, Browser
from tests.material.s3_server import S3Server

# As the command line sets it, before any test imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real photographs (../shared/data) is not there")
    return SHARED_DATA


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small networks, which lose more to threads that wait than they gain, above all on a busy machine."""
    import torch  # here: most tests do without it

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of tests/material/small_scenes.py to be read only, scenes.zarr with scenes.beton beside it."""
    from backdrop.pipeline.beton.writer import export_beton  # here: most tests do without them
    from backdrop.stores.format.reader import open_store
    from tests.material import small_scenes

    folder = tmp_path_factory.mktemp("scenes")
    built, index = small_scenes.build(folder)
    path = built.rename(folder / "scenes.zarr")
    export_beton(open_store(path), index, folder / "scenes.beton")
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for all tests that want one; each has addresses of its own on it."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the pages of a module's tests (see tests/material/browser.py)."""
    if MISSING:
        pytest.skip(MISSING)
    browser = Browser()
    yield browser
    browser.close()
