"""MSRA-B (Liu et al. 2011), 5,000 images, on which DeepUSPS2 learns without labels.

The published folder has each true mask, x.png, beside its image, x.jpg: such a mask is no image of the set. Where split
lists lie beside the images (those of Jiang et al. 2013, as DeepUSPS has them: 2,500 / 500 / 2,000), a split is the
images that its list names; without them a split's name is recorded alone.
"""

from pathlib import Path, PurePosixPath

from backdrop.errors import UserError
from backdrop.stores.datasets.folder import DEFAULT_ROOT, with_classes
from backdrop.stores.indexes.dataset_index import Listing, images_below

__all__ = ["ARGUMENT", "DEFAULT_ROOT", "LAYOUT", "SOURCE", "SPLITS", "images", "is_beside_its_image", "listing"]

LAYOUT = (
    "any tree of .jpg images, masks x.png beside x.jpg left out; of a split: {split}_names.txt or "
    "Parameters/{split}_names.txt, one name a line, with .jpg or without"
)
SOURCE = "the authors of Liu et al. 2011, Learning to Detect a Salient Object; the lists of Jiang et al. 2013"
SPLITS: tuple[str, ...] = ("train", "val", "test")
ARGUMENT = ""
_MASK_SUFFIX = ".png"


def images(root: Path, split: str) -> Path:
    """Return the folder itself."""
    return root


def listing(root: Path, split: str, argument: str) -> Listing:
    """List the images of a split. Raises: UserError: its list names images that are not there, or there is none."""
    everything = tuple(images_below(root))
    keys = {key for key, _ in everything}
    found = tuple(image for image in everything if not is_beside_its_image(image[0], keys))
    lists = {name: path for name in SPLITS if (path := _split_list(root, name)) is not None}
    if lists:
        if split not in lists:
            raise UserError(f"{root} has lists of the splits {', '.join(lists)}, and none of {split!r}")
        wanted = _listed(lists[split], [key for key, _ in found])
        found = tuple(image for image in found if image[0] in wanted)
    return with_classes(found)


def is_beside_its_image(key: str, keys: set[str]) -> bool:
    """Return whether a file is the true mask x.png of an image x.jpg beside it. Args: keys: of all files."""
    path = PurePosixPath(key)
    beside = (path.with_suffix(suffix).as_posix() for suffix in (".jpg", ".jpeg", ".JPG", ".JPEG"))
    return path.suffix.lower() == _MASK_SUFFIX and any(name in keys for name in beside)


def _split_list(root: Path, split: str) -> Path | None:
    places = (root / f"{split}_names.txt", root / "Parameters" / f"{split}_names.txt")
    return next((path for path in places if path.is_file()), None)


def _listed(path: Path, keys: list[str]) -> set[str]:
    """The keys that a list names, by their file's name with or without a suffix."""
    keys_of = {name: key for key in keys for name in (PurePosixPath(key).name, PurePosixPath(key).stem)}
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    missing = [name for name in names if name not in keys_of and PurePosixPath(name).stem not in keys_of]
    if missing or not names:
        raise UserError(
            f"{path} names {len(missing)} images that are not there, e.g. {missing[0]}; take the whole of MSRA-B, or "
            "leave the list out"
            if names
            else f"{path} names no image"
        )
    return {keys_of.get(name, keys_of.get(PurePosixPath(name).stem, "")) for name in names}
