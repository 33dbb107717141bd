"""The foreground, at another size and place, on the tiled background of another image (ForNet: Nauen et al. 2025).

"ForAug: Recombining Foregrounds and Backgrounds to Improve Vision Transformer Training"; size, place and edge are those
of its released code, as settings of `ObjectPlacement`: the share of the background that the object covers is drawn
between its own and that of the object that stood there, 30 % to either side; anywhere wholly inside; a soft edge inside
the mask. Departures:

- Foregrounds are the store's masks, found without labels, all components together, and backgrounds its tiled ones.
  ForNet cuts with an open-vocabulary detector that is told the class, keeps the version that classifiers like best, and
  inpaints with LaMa: all of it needs labels or what was trained with them.
- A share of the views is recombined, by default that of the other backgrounds, each view with a background, a size and
  a place of its own (`pair_draw=same`: with the same ones). ForNet recombines all images (`probability=1`), or fewer
  and fewer of them (`fade_epochs`), once per image and epoch.
- The photometrics see foreground and background apart, as with the other backgrounds; `order=before`: the composite, as
  in ForNet. The crop sees the composite with either, and its least share of foreground holds of the moved object.
- The edge is blurred at the view's size, with what sigma becomes there and half a pixel of the mask at least, whose own
  edge an enlarged one would show as stairs (ForNet resizes its cut-outs with smooth edges).
- Backgrounds of the own class alone, or the own one, are no choice: there are no classes here.
- An object too large for the background is cut off at the border by the draw of its place, ForNet's by one of its own.
  One that is put on a background without an object keeps its share, ForNet has none of those.
- ForNet's options to jut out over the border, to nine fixed places and to rotate, all off there, are not here.
"""

from torch import Tensor

NEEDS_DONOR = True
HAS_NEGATIVE = False
MOVES_FOREGROUND = True
PROBABILITY = 0.2


def replacement(donor_BCHW: Tensor | None, level_BCHW: Tensor) -> Tensor | None:
    """Return the donors' backgrounds; the foregrounds were moved when the views were cut.

    Args: donor_BCHW: float (B, 3, H, W), cut as the composite is, altered and normalised like the views.
        level_BCHW: ignored.
    Returns: float (B, 3, H, W).
    """
    return donor_BCHW
