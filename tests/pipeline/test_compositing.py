"""Masks on the device, backgrounds behind foregrounds, extra negatives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.pipeline.views import compositing


@settings(deadline=None, max_examples=20)
@given(width=st.integers(1, 33), height=st.integers(1, 5), seed=st.integers(0, 999))
def test_unpack_is_numpys_packing_undone(width: int, height: int, seed: int) -> None:
    mask_BHW = np.random.default_rng(seed).integers(0, 2, (3, height, width), dtype=np.uint8)
    packed_BHP = torch.from_numpy(np.packbits(mask_BHW, axis=-1))
    unpacked_B1HW = compositing.unpack_mask(packed_BHP, width)
    assert unpacked_B1HW.dtype == torch.bool
    np.testing.assert_array_equal(unpacked_B1HW[:, 0].numpy(), mask_BHW)
    assert torch.equal(compositing.unpack_mask_anywhere(packed_BHP, width), unpacked_B1HW)


def test_composite_by_hand() -> None:
    image_BCHW = torch.arange(2 * 3 * 1 * 2, dtype=torch.float32).reshape(2, 3, 1, 2)
    mask_B1HW = torch.tensor([[[[True, False]]], [[[False, False]]]])
    before = image_BCHW.clone()
    result = compositing.composite(image_BCHW, mask_B1HW, torch.full((1, 1, 1, 1), -1.0), np.array([True, False]))
    assert result[0].tolist() == [[[0.0, -1.0]], [[2.0, -1.0]], [[4.0, -1.0]]]
    assert torch.equal(result[1], before[1])
    assert result is image_BCHW


def test_negative_sources_are_uniform_over_the_other_rows() -> None:
    drawn_B = np.linspace(0, 1, 60, endpoint=False, dtype=np.float32)
    source_B = compositing.negative_sources(drawn_B)
    assert (source_B != np.arange(60)).all()
    counts = np.bincount([compositing.negative_sources(np.full(5, u, np.float32))[0] for u in (drawn_B + 0.005)])
    assert counts.tolist() == [0, 15, 15, 15, 15]
    almost_one = np.full(4097, np.nextafter(np.float32(1), np.float32(0)))
    assert (compositing.negative_sources(almost_one) != np.arange(4097)).all()
    assert compositing.negative_sources(np.float32([0.3])).tolist() == [0]


def test_extra_negative_follows_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    query, plain = (torch.rand(4, 3, 5, 6, generator=generator) for _ in range(2))
    mask_B1HW = torch.rand(4, 1, 5, 6, generator=generator) > 0.5
    mask_B1HW[3] = False  # a crop without foreground: a matched negative would be the query itself
    is_matched_B, source_B = np.array([True, False, True, True]), np.array([1, 2, 3, 0])
    is_matched, source = torch.from_numpy(is_matched_B), torch.from_numpy(source_B)
    negative = compositing.extra_negative(query, plain, mask_B1HW, is_matched, source)
    m, r = mask_B1HW.float(), plain[source_B]
    expected = m * r + (1 - m) * query
    assert torch.equal(negative[[0, 2]], expected[[0, 2]])
    assert torch.equal(negative[[1, 3]], r[[1, 3]])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extra_negative_of_a_full_mask_is_the_random_image(value: float) -> None:
    query, plain = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), value)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    is_matched = torch.tensor([True, True])
    assert torch.equal(compositing.extra_negative(query, plain, mask, is_matched, torch.tensor([1, 0])), plain)


def test_several_negatives_of_a_query_have_different_sources() -> None:
    drawn_B = np.linspace(0, 1, 6, endpoint=False, dtype=np.float32)
    source_MB = compositing.negative_sources(drawn_B, 5).reshape(5, 6)
    np.testing.assert_array_equal(source_MB[0], compositing.negative_sources(drawn_B))
    for row in range(6):
        assert sorted(source_MB[:, row]) == [each for each in range(6) if each != row]


def test_several_negatives_are_each_made_as_one_is() -> None:
    generator = torch.Generator().manual_seed(0)
    query, plain = (torch.rand(4, 3, 5, 6, generator=generator) for _ in range(2))
    mask_B1HW = torch.rand(4, 1, 5, 6, generator=generator) > 0.5
    is_matched = torch.tensor([True, False, True, True])
    source_N = torch.tensor([1, 2, 3, 0, 3, 0, 1, 2])
    negatives = compositing.extra_negative(query, plain, mask_B1HW, is_matched, source_N)
    for number, source_B in enumerate(source_N.view(2, 4)):
        one = compositing.extra_negative(query, plain, mask_B1HW, is_matched, source_B)
        assert torch.equal(negatives[4 * number : 4 * number + 4], one)
