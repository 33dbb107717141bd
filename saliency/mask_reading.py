"""What of a file made elsewhere is its mask: its grey, its alpha, one of its colours or its instance numbers.

How a folder is to be read is part of the detector's name, `masks:DIR:alpha`: whatever takes a detector then reads it
alike, workers and several detectors of one command included, and the store's identity says it.

Shapes: H rows, W columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from backdrop.errors import ImageError, UserError
from backdrop.stores.images.image_codec import decode_alpha, decode_grey, decode_numbers, decode_rgb

INVERTED = "inverted"
# Above this a value of 8 bits is foreground.
MIDDLE = 127
# Colours whose channels differ by less are a grey that a converter has tinted.
_TINT = 32
# More numbers than these over a few files are a soft map's levels.
_MAX_INSTANCES = 64
# Fewer maps than this may well have foreground along their border; and of the border so much.
_MIN_INVERTED, _INVERTED_BORDER = 3, 0.9


def _opacity(data: bytes) -> np.ndarray:
    alpha_HW = decode_alpha(data)
    if alpha_HW is None:
        raise ImageError("it has no alpha channel")
    return alpha_HW


def _instances(data: bytes) -> np.ndarray:
    numbers = decode_numbers(data)
    is_one_HW = numbers != 0 if numbers.ndim == 2 else (numbers != 0).any(axis=2)
    return 255 * is_one_HW.astype(np.uint8)


# What of a file is the map, by the word that may stand behind the folder's name.
_PARTS: dict[str, Callable[[bytes], np.ndarray]] = {
    "grey": decode_grey,
    "alpha": _opacity,
    "instances": _instances,
    "red": lambda data: decode_rgb(data)[..., 0],
    "green": lambda data: decode_rgb(data)[..., 1],
    "blue": lambda data: decode_rgb(data)[..., 2],
}
WORDS = (*_PARTS, INVERTED)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the maps of a folder are read.

    part: of the file; "instances" = every number or colour but 0 is foreground. is_inverted: 255 = background.
    is_given: the user said so; what the files look like is then not asked.
    """

    part: str = "grey"
    is_inverted: bool = False
    is_given: bool = False

    @property
    def words(self) -> str:
        """As it stands in an identity; "" where nothing need be said, which is what stores always said."""
        words = [self.part] * (self.part != "grey") + [INVERTED] * self.is_inverted
        return ", ".join(words)

    def map_of(self, data: bytes) -> np.ndarray:
        """Decode a file to its map, uint8 (H, W), 255 = foreground. Raises: ImageError: damaged, or without alpha."""
        map_HW = _PARTS[self.part](data)
        return 255 - map_HW if self.is_inverted else map_HW


PLAIN = Reading()


def reading_of(words: Sequence[str]) -> Reading:
    """Return the reading that words behind a folder's name ask for.

    Args: words: of `WORDS`, in any order.
    Raises: UserError: two parts of a file are named.
    """
    parts = [word for word in words if word != INVERTED]
    if len(parts) > 1:
        raise UserError(f"masks cannot be both {parts[0]} and {parts[1]}: give one of {', '.join(_PARTS)}")
    part = parts[0] if parts else "grey"
    return Reading(part=part, is_inverted=INVERTED in words, is_given=bool(words))


def what_they_seem(files: Sequence[bytes]) -> tuple[str, str] | None:
    """Recognise maps that are no grey ones with 255 = foreground.

    Args: files: the first few of a folder; unreadable ones are left out.
    Returns: what they seem to be, and the word that reads them so; None where they seem to be what they should.
    """
    samples = list(_samples(files))
    for looks, seem in _KINDS:
        if looks(samples):
            return seem
    return None


@dataclass(frozen=True, kw_only=True)
class _Sample:
    grey_HW: np.ndarray
    alpha_HW: np.ndarray | None
    numbers: np.ndarray
    coloured_HW: np.ndarray
    # bool

    @property
    def on_HW(self) -> np.ndarray:
        return self.grey_HW > MIDDLE


def _samples(files: Sequence[bytes]) -> Iterator[_Sample]:
    for data in files:
        try:
            colours = decode_rgb(data).astype(np.int16)
            yield _Sample(
                grey_HW=decode_grey(data),
                alpha_HW=decode_alpha(data),
                numbers=decode_numbers(data),
                coloured_HW=np.ptp(colours, axis=2) >= _TINT,
            )
        except ImageError:
            continue  # reported by its key when its turn comes


def _are_alpha(samples: Sequence[_Sample]) -> bool:
    """Alpha says another mask than the colours, in most files."""
    differ = 0
    for sample in samples:
        if sample.alpha_HW is not None and np.ptp(sample.alpha_HW) > MIDDLE:
            differ += bool(((sample.alpha_HW > MIDDLE) != sample.on_HW).mean() > 0.01)
    return 2 * differ > len(samples)


def _are_colours(samples: Sequence[_Sample]) -> bool:
    """Most files that hold anything have colours, some of which are darker than the middle: red, blue, a palette."""
    filled = [sample for sample in samples if sample.numbers.any()]
    coloured = [sample for sample in filled if sample.coloured_HW.any()]
    dark = any((sample.coloured_HW & ~sample.on_HW).any() for sample in coloured)
    return dark and 2 * len(coloured) > len(filled)


def _are_numbers(samples: Sequence[_Sample]) -> bool:
    """Nothing is above the middle, and beside 0 there are few values."""
    if any(sample.on_HW.any() or sample.numbers.ndim != 2 for sample in samples):
        return False
    numbers = {number for sample in samples for number in np.unique(sample.numbers).tolist()}
    return 0 in numbers and 1 < len(numbers) <= _MAX_INSTANCES


def _are_inverted(samples: Sequence[_Sample]) -> bool:
    """The border is foreground, in nearly all files."""
    cut = [sample.on_HW for sample in samples if sample.on_HW.any() and not sample.on_HW.all()]
    borders = [np.concatenate([on_HW[0], on_HW[-1], on_HW[:, 0], on_HW[:, -1]]).mean() for on_HW in cut]
    return len(borders) >= _MIN_INVERTED and float(np.quantile(borders, 0.1)) > _INVERTED_BORDER


_KINDS: tuple[tuple[Callable[[Sequence[_Sample]], bool], tuple[str, str]], ...] = (
    (_are_alpha, ("have their mask in alpha, their colours say something else", "alpha")),
    (_are_colours, ("are coloured, with colours that as grey are below the middle", "instances")),
    (
        _are_numbers,
        ("hold few numbers, none above the middle of 0 and 255: instances, or 0 and 1", "instances"),
    ),
    (_are_inverted, ("are foreground almost all along their borders", INVERTED)),
)
_MEANS = {
    "alpha": "if opaque is foreground",
    "instances": "if everything but 0 (black, the palette's first entry) is foreground; "
    ":red, :green or :blue if one channel is the map",
    INVERTED: "if 255 is background",
}


def check_reading(name: str, files: Sequence[bytes]) -> None:
    """Refuse maps that do not look like grey ones with 255 = foreground, before they become a store of wrong masks.

    Args: name: of the folder. files: the first few of it.
    Raises: UserError: says what they look like and what to write behind the folder's name.
    """
    if seem := what_they_seem(files):
        looks, word = seem
        raise UserError(
            f"the maps of {name} {looks}. Write :{word} behind the folder's name {_MEANS[word]}; :grey if they are "
            f"maps of 0 to 255 (255 = foreground) all the same. As in: masks:{name}:{word}"
        )
