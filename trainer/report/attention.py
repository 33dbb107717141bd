"""Where a trained query looks: Grad-CAM of its similarity with a key, beside the foreground it should look at.

The columns of CAST's Figure 5: query (b), key (c), map for the key (e, f), masked key (g), map for the masked key
(h, i), and the query's mask (d). The same maps, crops and IoU as `evaluate grounding` (CAST section 4.4), for a few
rows of the run's own store.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.view_loader import ViewLoader
from backdrop.stores.pages import document, pictures
from backdrop.trainer import cast
from backdrop.trainer.evaluation.grounding import Options, cam_iou, plain_plan, query_cam, scaled
from backdrop.trainer.parts.pretraining_method import QueryKeyMethod
from backdrop.trainer.report.examples import Scenes, denormalised, different_rows, spread_rows
from backdrop.trainer.settings import RunSettings

NUM_ROWS = 6


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One row.

    key: of the row. query_HWC, view_HWC, masked_key_HWC: uint8 RGB pictures of the query, the other view (the key) and
    that without its background. key_map_HW, map_HW: over the query, for key and masked key, float32 (H, W) in [0, 1].
    mask_HW: the query's, uint8 {0, 1}. iou: of mask and `map_HW` cut at 0.5; None where a crop holds no foreground.
    """

    key: str
    query_HWC: np.ndarray
    view_HWC: np.ndarray
    key_map_HW: np.ndarray
    masked_key_HWC: np.ndarray
    map_HW: np.ndarray
    mask_HW: np.ndarray
    iou: float | None


def attended(method: QueryKeyMethod, beton: Path, settings: RunSettings) -> list[Attention]:
    """Return where a trained method's queries look, for a few rows of its store.

    Args: method: of `trained_method`. beton: what the run read. settings: the run's.
    """
    scenes = Scenes(beton, None)
    rows = spread_rows(scenes.records, NUM_ROWS)
    if not len(rows):
        return []
    options = Options(seed=settings.seed)
    plan = plain_plan(settings.views[0].size_px, options.min_foreground)
    with ViewLoader(
        beton,
        plan,
        LoaderOptions(batch_size=len(rows), seed=options.seed, rows=rows, drop_last=False, bad_rows=settings.bad_rows),
        device=next(method.parameters()).device,
    ) as loader:
        (views,) = loader
    cam_Bhw = query_cam(method, views)
    iou_B, is_counted_B = cam_iou(cam_Bhw, views, options)
    map_BHW = _enlarged(cam_Bhw, settings.views[0].size_px)
    key_map_BHW = _enlarged(query_cam(method, views, is_key_masked=False), settings.views[0].size_px)
    masked_B3HW = cast.masked_key(views.images[1], views.masks[1])
    found = [
        Attention(
            key=scenes.key(int(views.row_B[place])),
            query_HWC=denormalised(views.images[0][place]),
            view_HWC=denormalised(views.images[1][place]),
            key_map_HW=key_map_BHW[place].cpu().numpy(),
            masked_key_HWC=denormalised(masked_B3HW[place]),
            map_HW=map_BHW[place].cpu().numpy(),
            mask_HW=views.masks[0][place, 0].cpu().numpy().astype(np.uint8),
            iou=float(iou_B[place]) if is_counted_B[place] else None,
        )
        for place in different_rows(views.row_B)
    ]
    return sorted(found, key=lambda each: each.key)


def _enlarged(cam_Bhw: Tensor, size_px: int) -> Tensor:
    return scaled(functional.interpolate(cam_Bhw[:, None], (size_px, size_px), mode="bilinear")[:, 0])


def attention_html(rows: list[Attention]) -> str:
    """Return the rows as HTML, six pictures each."""
    return f'<div class="columns">{"".join(_row(row) for row in rows)}</div>' if rows else ""


def _row(row: Attention) -> str:
    is_blank = not row.map_HW.any()
    found = "no foreground in a crop" if row.iou is None else f"IoU {row.iou:.2f}"
    found = "no signal yet" if is_blank else found
    figures = (
        (row.query_HWC, f"query crop of {row.key}", "query"),
        (row.view_HWC, f"key crop of {row.key}", "key"),
        (
            pictures.with_heat(row.query_HWC, row.key_map_HW),
            f"where the query of {row.key} looks for the key",
            "map, key",
        ),
        (row.masked_key_HWC, f"key crop of {row.key}, background at the mean colour", "masked key"),
        (
            pictures.with_heat(row.query_HWC, row.map_HW),
            f"where the query of {row.key} looks for the masked key, {found}",
            f"map, masked key: {found}",
        ),
        (pictures.with_contour(row.query_HWC, row.mask_HW), f"foreground of the query of {row.key} outlined", "mask"),
    )
    strip = "".join(
        document.picture(pictures.img(pictures.thumbnail(image), alternative), escape(caption))
        for image, alternative, caption in figures
    )
    return f'<article class="example"><h3>{escape(row.key)}</h3><div class="strip">{strip}</div></article>'
