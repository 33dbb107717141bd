"""Keys in one block, and an index that travels: the same rows, in a tenth of the bytes."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.stores.indexes.dataset_index import DatasetIndex
from backdrop.stores.indexes.key_table import compress_keys, decompress_keys

KEYS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


@settings(deadline=None, max_examples=40)
@given(st.lists(KEYS, max_size=30))
def test_keys_come_back(keys: list[str]) -> None:
    table = decompress_keys(compress_keys(keys), len(keys))
    assert list(table) == keys
    assert table[1:-1] == keys[1:-1]
    assert [table[-1 - at] for at in range(len(keys))] == keys[::-1]
    for beyond in (len(keys), -len(keys) - 1):
        with pytest.raises(IndexError):
            table[beyond]


def test_names_that_are_no_text_come_back() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert list(decompress_keys(compress_keys([name, "", "b"]), 3)) == [name, "", "b"]


def test_an_index_travels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = tuple(f"n{row // 40:08d}/n{row // 40:08d}_{row * 7:d}.JPEG" for row in range(2000))
    labels, sizes = np.arange(2000, dtype=np.int32) // 40, rng.integers(0, 10**6, 2000)
    index = DatasetIndex("imagenet", "train", tmp_path, keys, labels, sizes, ("a", "b"))
    data = pickle.dumps(index)
    again = pickle.loads(data)
    assert len(data) < 20 * 2000 / 2
    assert (again.dataset, again.split, again.root, again.class_names) == ("imagenet", "train", tmp_path, ("a", "b"))
    assert tuple(again.keys) == keys
    np.testing.assert_array_equal(again.labels, labels)
    np.testing.assert_array_equal(again.sizes_bytes, sizes)
    assert (again.labels.dtype, again.sizes_bytes.dtype) == (np.int32, np.int64)
    assert again.digest == index.digest
    del again.__dict__["digest"]
    assert again.digest == index.digest
    assert again.path(7) == index.path(7)
    assert pickle.loads(pickle.dumps(again)).digest == index.digest
