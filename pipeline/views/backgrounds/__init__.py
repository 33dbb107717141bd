"""Background augmentations (Ryali et al. 2021, section 2.2; ForNet); a file's name is its name on the command line."""

from typing import TYPE_CHECKING, Protocol

from backdrop.open_sets import OpenSet

if TYPE_CHECKING:
    from torch import Tensor


class BackgroundFile(Protocol):
    """What a file of `pipeline/views/backgrounds/`, or a plug-in of the set `backgrounds`, provides.

    Shapes: B images whose background is replaced, H W rows and columns of the view.
    """

    @property
    def NEEDS_DONOR(self) -> bool:
        """Whether it takes the background of another image."""

    @property
    def HAS_NEGATIVE(self) -> bool:
        """Whether every query gets extra negatives, which is for methods with negatives alone (BG_Swaps)."""

    @property
    def MOVES_FOREGROUND(self) -> bool:
        """Whether the foreground is put elsewhere, at another size, on the donor's background (`ObjectPlacement`);
        only with NEEDS_DONOR.
        """

    @property
    def PROBABILITY(self) -> float:
        """Share of views that get it, in [0, 1], with a method whose paper says none for it; 0 = it does nothing."""

    def replacement(self, donor_BCHW: "Tensor | None", level_BCHW: "Tensor") -> "Tensor | None":
        """Return what stands behind the foregrounds.

        Args:
            donor_BCHW: backgrounds of other images, float (B, 3, H, W), cropped, altered and normalised like the views;
                None where NEEDS_DONOR is False.
            level_BCHW: a grey level an image, float (B, 3, 1, 1), drawn in [0, 1] and normalised.
        Returns: float, broadcastable to (B, 3, H, W); None = backgrounds stay.
        """


BACKGROUNDS: OpenSet[BackgroundFile] = OpenSet("backgrounds", __name__, __path__, contract=BackgroundFile)
NAMES = BACKGROUNDS.built_in()
