"""What a run was trained on, kept in its run.json: which images, and whose masks, cut where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainedStore:
    """A store as a run met it.

    dataset: its name in stores/datasets. num_rows: images of it. max_side_px: longest side of an image as it is read.
    detector: whose masks, as a store's identity names it. threshold: of their saliency. Both None where only a .beton
    was at hand that does not say.
    """

    dataset: str
    num_rows: int
    max_side_px: int
    detector: str | None = None
    threshold: float | None = None


def trained_store(sidecar: Mapping[str, Any], identity: Mapping[str, Any] | None) -> TrainedStore:
    """Return what a run keeps of its store.

    Args: sidecar: of the .beton that is read. identity: of its store, None where only the .beton is at hand.
    """
    said = sidecar.get("masks")  # of files from before it was said: nothing
    known: dict[str, Any] = {}
    if isinstance(said, Mapping) and said.keys() >= {"detector", "threshold"}:
        known = {"detector": str(said["detector"]), "threshold": float(said["threshold"])}
    if identity is not None and "mask" in identity:
        # An identity has its fractions as text.
        known = {"detector": identity["detector"]["name"], "threshold": float(identity["mask"]["threshold"])}
    return TrainedStore(
        dataset=sidecar["dataset"],
        num_rows=sidecar["num_rows"],
        max_side_px=sidecar["settings"]["max_side_px"],
        **known,
    )
