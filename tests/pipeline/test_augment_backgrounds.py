"""Background augmentations of one's own tensors: what is replaced, by what, and what stays."""

import pytest
import torch

from backdrop.errors import UserError
from backdrop.pipeline.views.augment_backgrounds import Augmented, augment_backgrounds, composite
from backdrop.pipeline.views.view_plan import Background

NUM, SIDE = 64, 6
# Every row has values of its own, so that whose pixels stand where can be read off.
IMAGE = torch.arange(NUM, dtype=torch.float32)[:, None, None, None].expand(NUM, 3, SIDE, SIDE) / NUM
MASK = torch.zeros(NUM, 1, SIDE, SIDE, dtype=torch.uint8)
MASK[:, :, 2:4, 1:5] = 1


def augmented(name: str, seed: int = 3, **settings: float) -> Augmented:
    donor = None if name == "rm" else IMAGE + 100
    return augment_backgrounds(IMAGE, MASK, Background(name=name, **settings), donor_BCHW=donor, seed=seed)


@pytest.mark.parametrize("name", ["rm", "random", "swaps"])
def test_foregrounds_and_rows_not_drawn_stay(name: str) -> None:
    found = augmented(name, probability=0.5)
    is_new = found.image_BCHW != IMAGE
    assert not (is_new & MASK.bool()).any()
    assert not is_new[~found.is_drawn_B].any()
    assert is_new[found.is_drawn_B].any(dim=1, keepdim=True).eq(~MASK[found.is_drawn_B].bool()).all()
    assert 0.25 * NUM < found.is_drawn_B.sum() < 0.75 * NUM


@pytest.mark.parametrize("name", ["random", "swaps"])
def test_a_background_is_that_of_another_image(name: str) -> None:
    corner_B = augmented(name, probability=1.0).image_BCHW[:, 0, 0, 0]
    lender_B = ((corner_B - 100) * NUM).round().long()
    assert (lender_B != torch.arange(NUM)).all()
    assert len(lender_B.unique()) == NUM


def test_grey_is_one_level_an_image_and_normalised() -> None:
    rm = Background(name="rm", probability=1.0)
    plain = augment_backgrounds(IMAGE, MASK, rm, seed=5).image_BCHW[:, :, 0, 0]
    assert (plain == plain[:, :1]).all()
    assert ((plain >= 0) & (plain < 1)).all()
    assert len(plain[:, 0].unique()) == NUM
    other = augment_backgrounds(IMAGE, MASK, rm, seed=5, mean=(0.5, 0.25, 0), std=(2, 1, 0.5)).image_BCHW[:, :, 0, 0]
    torch.testing.assert_close(other * torch.tensor([2, 1, 0.5]) + torch.tensor([0.5, 0.25, 0]), plain)


def test_a_matched_negative_has_the_background_of_its_query() -> None:
    found = augmented("swaps", probability=1.0, negative_probability=1.0, num_negatives=2)
    assert found.negative_NCHW is not None
    negative_MBCHW = found.negative_NCHW.unflatten(0, (2, NUM))
    is_background = ~MASK[0].bool().expand(3, SIDE, SIDE)
    for negative_BCHW in negative_MBCHW:
        assert (negative_BCHW == found.image_BCHW)[:, is_background].all()
        assert not (negative_BCHW == found.image_BCHW)[:, ~is_background].any()


def test_draws_follow_from_the_seed() -> None:
    assert torch.equal(augmented("random", 1).image_BCHW, augmented("random", 1).image_BCHW)
    assert not torch.equal(augmented("random", 1).is_drawn_B, augmented("random", 2).is_drawn_B)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(UserError, match="donor_BCHW"):
        augment_backgrounds(IMAGE, MASK, Background(name="random"), seed=0)
    with pytest.raises(UserError, match="ViewLoader"):
        augmented("recombine")
    with pytest.raises(UserError, match=r"background\.probability"):
        augmented("random", probability=2)
    with pytest.raises(UserError, match="Allowed: none, random"):
        augmented("blue")


def test_composite_selects_pixels() -> None:
    chosen = composite(IMAGE[0], MASK[0], torch.tensor(7.0))
    assert torch.equal(chosen == 7, ~MASK[0].bool().expand(3, SIDE, SIDE) | (IMAGE[0] == 7))
