"""Masks to bytes and back."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backdrop.errors import CorruptStore
from backdrop.stores.format.mask_codec import (
    decode_mask,
    decode_saliency,
    encode_mask,
    encode_saliency,
    pack_rows,
    unpack_rows,
)

masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def test_packing_by_hand() -> None:
    mask_HW = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]], np.uint8)
    np.testing.assert_array_equal(pack_rows(mask_HW), [[0b1000_0000, 0b1100_0000], [0b0000_0001, 0b0100_0000]])


@settings(deadline=None, max_examples=60)
@given(masks)
def test_round_trip(mask_HW: np.ndarray) -> None:
    packed = decode_mask(encode_mask(pack_rows(mask_HW)), *mask_HW.shape)
    assert packed.shape == (mask_HW.shape[0], -(-mask_HW.shape[1] // 8))
    np.testing.assert_array_equal(unpack_rows(packed, mask_HW.shape[1]), mask_HW)


@settings(deadline=None, max_examples=30)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_soft_maps_round_trip(saliency_HW: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_saliency(encode_saliency(saliency_HW), *saliency_HW.shape), saliency_HW)


@settings(deadline=None, max_examples=100)
@given(masks, st.data())
def test_damage_is_an_error_or_a_mask_of_the_right_size(mask_HW: np.ndarray, data: st.DataObject) -> None:
    frame = bytearray(encode_mask(pack_rows(mask_HW)))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert decode_mask(bytes(frame), *mask_HW.shape).shape == (mask_HW.shape[0], -(-mask_HW.shape[1] // 8))
    except CorruptStore as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize("data", [b"", b"no frame", encode_mask(np.zeros((5, 2), np.uint8))])
def test_what_is_no_such_mask_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptStore):
        decode_mask(data, 5, 17)


def test_threads_do_not_share_a_context() -> None:
    mask_HW = (np.random.default_rng(0).random((300, 400)) < 0.5).astype(np.uint8)
    frame = encode_mask(pack_rows(mask_HW))
    wrong = []

    def read() -> None:
        for _ in range(50):
            if not np.array_equal(unpack_rows(decode_mask(frame, 300, 400), 400), mask_HW):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
