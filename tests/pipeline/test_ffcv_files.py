"""The .beton is FFCV's format: its layout is stated here so that reading takes no FFCV."""

from ffcv.types import ALLOC_TABLE_TYPE, CURRENT_VERSION, FieldDescType, HeaderType

from backdrop.pipeline.beton import ffcv_layout


def test_the_layout_is_ffcvs() -> None:
    assert ffcv_layout.FFCV_VERSION == CURRENT_VERSION
    for ours, theirs in (
        (ffcv_layout.HEADER_DTYPE, HeaderType),
        (ffcv_layout.FIELD_DTYPE, FieldDescType),
        (ffcv_layout.ALLOCATION_DTYPE, ALLOC_TABLE_TYPE),
    ):
        assert ours.fields == theirs.fields
        assert ours.itemsize == theirs.itemsize
