"""What several tests of the pipeline read."""

from pathlib import Path

import pytest

from backdrop.stores.datasets import open_index
from backdrop.stores.format.reader import Store, open_store
from backdrop.stores.indexes.dataset_index import DatasetIndex


@pytest.fixture(scope="session")
def built(scenes: Path) -> tuple[Store, DatasetIndex]:
    """The store of `scenes`, opened, and its images; to be read only."""
    return open_store(scenes), open_index("folder", root=scenes.parent / "images")
