"""ImageNet-V2: three new test sets of ImageNet's classes (Recht et al. 2019, arXiv 1902.10811).

Ryali et al. 2021, Tables 12, A19 and A20; their main text has matched-frequency. Two releases are about, whose numbers
differ by 0.1 to 0.4: class folders named by number (the current one), or by WordNet id ("format-val").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from backdrop.errors import UserError
from backdrop.settings import check_settings, one_of
from backdrop.stores.indexes.imagenet_classes import CLASS_OF_WNID, WNIDS
from backdrop.trainer.evaluation.data.images import Images, class_folders
from backdrop.trainer.evaluation.data.projections import top_accuracy
from backdrop.trainer.evaluation.data.transforms import standard
from backdrop.trainer.evaluation.harness.defaults import no_facts, no_problems, nothing_beside
from backdrop.trainer.evaluation.harness.result import MAX_NAMED, Result
from backdrop.trainer.evaluation.harness.subject import Subject
from backdrop.trainer.evaluation.predictions.outputs import logits_of

DATA = "imagenetv2"
LAYOUT = (
    "ROOT/imagenetv2-{matched-frequency,threshold0.7,top-images}[-format-val]/{0..999 or <wnid>}/*.jpeg, one of the "
    "three or more, or one of these folders itself"
)
SOURCE = "github.com/modestyachts/ImageNetV2"
TAKES_DAYS = False
needed_beside = nothing_beside
facts_of_data = no_facts
problems_of_data = no_problems
NUM_IMAGES, NUM_PER_CLASS = 10_000, 10
NUMERIC, WNID = "numeric", "wnid"
# Names are the paper's; the folders of each, without "imagenetv2-" and "-format-val", as different packings have them.
_SETS = {
    "matched_frequency": ("matched-frequency", "matchedfrequency"),
    "threshold_0.7": ("threshold0.7", "threshold-0.7", "threshold-07", "threshold07"),
    "top_images": ("top-images", "topimages"),
}
# By value, never by place: as texts, "10" and "100" stand before "2".
_CLASS_OF_NUMBER = {str(number): number for number in range(len(WNIDS))}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen."""

    release: Annotated[
        str,
        one_of((NUMERIC, WNID)),
        'Which release counts where a set is there in both: "numeric" (Ryali et al.\'s supervised 63.3) or "wnid"',
    ] = NUMERIC


def run(subject: Subject, data: Path, options: Options) -> Result:
    """Score a network: top-1 accuracy of each set that is there, under its name, and <set>_top5, in percent.

    Raises: UserError: another layout, an unknown release, or no classifier.
    """
    check_settings(options)
    transform = standard(subject.image_size_px)
    result = Result(facts={"transform": transform.name, "projection": "none", "bn_mode": subject.bn_mode})
    result.facts["release"] = {}
    for name, folders in _found_sets(data).items():
        folder, release = _chosen(folders, options.release)
        if release != options.release:
            result.problems.append(f"{name}: only the {release} release is there, not the {options.release} one")
        images = _open_set(folder, release, name, result)
        result.facts["release"][name] = f"{folder.name} ({release})"
        outputs = logits_of(subject, images, transform, name=f"imagenet-v2-{name}")
        outputs.report(result)
        label_N = images.label_N[outputs.rows_N]
        result.metrics[name] = top_accuracy(outputs.logits_NC, label_N)
        result.metrics[f"{name}_top5"] = top_accuracy(outputs.logits_NC, label_N, 5)
    return result


def _found_sets(data: Path) -> dict[str, list[Path]]:
    """The folders of each set, in the order of the paper. Raises: UserError: there is none."""
    if not data.is_dir():
        raise UserError(f"there is no folder {data}. Expected: {LAYOUT}")
    set_of_packing = {packing: name for name, packings in _SETS.items() for packing in packings}
    folders: dict[str, list[Path]] = {name: [] for name in _SETS}
    for path in (data.absolute(), *sorted(data.iterdir())):
        packing = path.name.lower().removeprefix("imagenetv2-").removesuffix("-format-val")
        if path.is_dir() and packing in set_of_packing:
            folders[set_of_packing[packing]].append(path)
    found = {name: paths for name, paths in folders.items() if paths}
    if not found:
        raise UserError(f"{data} is and holds none of the sets of ImageNet-V2. Expected: {LAYOUT}")
    return found


def _chosen(folders: list[Path], release: str) -> tuple[Path, str]:
    released = [(folder, _release_of(folder)) for folder in folders]
    return next((each for each in released if each[1] == release), released[0])


def _release_of(folder: Path) -> str:
    """By the names of the class folders. Raises: UserError: there are both kinds, or neither."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    kinds = [kind for kind, known in ((NUMERIC, _CLASS_OF_NUMBER), (WNID, CLASS_OF_WNID)) if names & set(known)]
    if len(kinds) != 1:
        what = "both numbers and WordNet ids" if kinds else "neither numbers nor WordNet ids"
        raise UserError(f"{folder} has class folders named by {what}. Expected: {LAYOUT}")
    return kinds[0]


def _open_set(folder: Path, release: str, name: str, result: Result) -> Images:
    class_of_folder: Mapping[str, int] = _CLASS_OF_NUMBER if release == NUMERIC else CLASS_OF_WNID
    images = class_folders(folder, class_of_folder, LAYOUT)
    result.note_strays([f"{folder.name}/{stray}" for stray in images.strays])
    result.expect(f"{name} images", len(images), NUM_IMAGES)
    num_C = np.bincount(images.label_N, minlength=len(WNIDS))
    odd = np.flatnonzero(num_C != NUM_PER_CLASS)
    if odd.size:
        named = ", ".join(f"class {label} has {num_C[label]}" for label in odd[:MAX_NAMED])
        result.problems.append(f"{name}: {odd.size} classes have not {NUM_PER_CLASS} images ({named} ...)")
    return images
