"""The mean colour of another image's background, in place of the own background."""

BACKDROP_SET = "backgrounds"
NEEDS_DONOR, HAS_NEGATIVE, MOVES_FOREGROUND, PROBABILITY = True, False, False, 0.3


def replacement(donor_BCHW, level_BCHW):
    """Return one colour an image, float (B, 3, 1, 1)."""
    return donor_BCHW.mean(dim=(2, 3), keepdim=True)
