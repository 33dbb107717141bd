"""Of a JPEG only the rows that a view shows are decoded: they are those of the whole, and damage in them is seen."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backdrop.pipeline.beton import scene_kernels
from backdrop.pipeline.beton.plane_kernels import (
    DecodeMemory,
    Planes,
    close_decode_memory,
    decode_planes,
    decode_upper_planes,
    make_decode_memory,
)

HEIGHT, WIDTH = 147, 101
UNTOUCHED = 77


def jpeg(mode: str = "RGB", **options: object) -> np.ndarray:
    """A JPEG of noise, so that a bit that is wrong is soon noticed."""
    shape = (HEIGHT, WIDTH, 3) if mode == "RGB" else (HEIGHT, WIDTH)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90, **options)
    return np.frombuffer(out.getvalue(), np.uint8)


def decoded(data: np.ndarray, shrink: int, end_row: int | None) -> tuple[int, Planes]:
    """Decode into memory that nothing was written to before; end_row None = `decode_planes`."""
    memory: DecodeMemory = make_decode_memory(HEIGHT, WIDTH)
    memory.pixels[:] = UNTOUCHED
    try:
        if end_row is not None:
            return decode_upper_planes(memory, data, HEIGHT, WIDTH, shrink, end_row)
        return decode_planes(memory, data, -(-HEIGHT // shrink), -(-WIDTH // shrink))
    finally:
        close_decode_memory(memory)


def rows_of(planes: Planes, number: int, num: int) -> np.ndarray:
    start, stride = planes.starts[number], planes.strides[number]
    return planes.data[start : start + num * stride]


@pytest.mark.parametrize("shrink", [1, 2, 8])
@pytest.mark.parametrize("options", [{"subsampling": number} for number in range(3)] + [{"mode": "L"}])
def test_rows_that_are_wanted_are_those_of_the_whole_and_no_more_are_decoded(options: dict, shrink: int) -> None:
    data = jpeg(**options)
    _, whole = decoded(data, shrink, None)
    last = (HEIGHT - 1) // shrink
    for end_row in (-3, 0, 1, 15, 16, 17, 64, 120, 146, 147, 200):
        status, upper = decoded(data, shrink, end_row)
        assert status == 0
        assert upper[1:] == whole[1:]
        for number in range(3 if whole.has_colour else 1):
            sub_y = whole.sub_y if number else 1
            # A row of colour more where it is stored coarser, which pixels beside it are made of.
            num = -(-min(max(end_row, 1), HEIGHT) // (sub_y * shrink)) + (sub_y - 1)
            num = min(num, -(-HEIGHT // (sub_y * shrink)))
            assert (rows_of(upper, number, num) == rows_of(whole, number, num)).all()
        is_left = (rows_of(upper, 0, last + 1)[-8:] == UNTOUCHED).all()
        assert is_left == (end_row <= 120)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}])
def test_other_files_are_decoded_whole(options: dict) -> None:
    data = jpeg(**options)
    assert scene_kernels.height_of_one_scan(data) == -1
    status, upper = decoded(data, 1, 16)
    assert status == 0
    assert (upper.data == decoded(data, 1, None)[1].data).all()


def test_damage_in_rows_that_are_wanted_is_seen() -> None:
    data = jpeg()
    assert decoded(data[: data.size // 2], 1, 120)[0] == -1
    start, noticed = data.size // 4, 0
    for at in range(start, start + 400, 10):
        broken = data.copy()
        broken[at : at + 2] = 0xFF, 0x21  # a marker in the midst of a scan
        noticed += decoded(broken, 1, 120)[0] != 0
    assert noticed == 40


def test_what_lies_behind_them_need_not_be_there() -> None:
    data = jpeg().copy()
    data[data.size * 3 // 4 : -2] = 0
    assert decoded(data, 1, None)[0] == -1
    status, upper = decoded(data, 1, 64)
    assert status == 0
    assert (rows_of(upper, 0, 64) == rows_of(decoded(jpeg(), 1, None)[1], 0, 64)).all()


@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=80), start=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00\x0b\x08"]))
def test_headers_of_anything_are_read_within_its_bytes(data: bytes, start: bytes) -> None:
    for content in (
        np.frombuffer(start + data, np.uint8),
        np.concatenate([jpeg()[:640], np.frombuffer(data, np.uint8)]),
    ):
        for length in range(0, content.size, 7):
            plain = scene_kernels.height_of_one_scan.py_func(content[:length])
            assert scene_kernels.height_of_one_scan(content[:length]) == plain


def test_the_height_is_where_it_is_said() -> None:
    data = jpeg()
    at = scene_kernels.height_of_one_scan(data)
    assert at == scene_kernels.height_of_one_scan.py_func(data)
    assert data[at : at + 2].tobytes() == HEIGHT.to_bytes(2, "big")
