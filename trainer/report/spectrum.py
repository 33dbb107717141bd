"""How many directions a network's embeddings fill: singular values of centred unit vectors, and their effective rank.

Collapsed embeddings fill few (Jing et al. 2022, "Understanding dimensional collapse in contrastive self-supervised
learning", arXiv 2110.09348). Legend: N images, D features, M = min(N, D).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backdrop.errors import UserError
from backdrop.pipeline.beton.reader import read_records
from backdrop.pipeline.loader.loader_options import LoaderOptions
from backdrop.pipeline.loader.view_loader import ViewLoader
from backdrop.progress import stage_bar
from backdrop.trainer.evaluation.grounding import plain_plan
from backdrop.trainer.parts.pretraining_method import PretrainingMethod, QueryKeyMethod
from backdrop.trainer.report.examples import spread_rows
from backdrop.trainer.settings import RunSettings

# Images whose embeddings are looked at: rank and effective rank are below this whatever the network does.
NUM_IMAGES = 256
_BATCH_SIZE = 64


def singular_values(vector_ND: np.ndarray) -> np.ndarray:
    """Return the singular values of the vectors, each scaled to unit length, minus their mean; float64 (M,), falling.

    Args: vector_ND: float (N, D), one per image; a vector of zeros stays one.
    """
    vector_ND = vector_ND.astype(np.float64)
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    unit_ND = vector_ND / np.where(length_N1 > 0, length_N1, 1.0)
    return np.linalg.svd(unit_ND - unit_ND.mean(axis=0), compute_uv=False)


def effective_rank(singular_M: np.ndarray) -> float:
    """Return exp(-sum p log p), p = singular values over their sum: k for k equal ones, 0 where all are 0.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", Definition 1.

    Args: singular_M: float (M,), 0 or more.
    """
    total = singular_M.sum()
    if total <= 0:
        return 0.0
    share = singular_M[singular_M > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


@torch.no_grad()
def embeddings(method: PretrainingMethod, beton: Path, settings: RunSettings) -> dict[str, np.ndarray]:
    """Return what a trained method says to up to 256 rows of its store, spread over it, as plain crops.

    Args: method: of `trained_method`. beton: what the run read. settings: the run's.
    Returns: "features" of the backbone, float32 (N, D); and "embedding", which the loss compares, (N, E), where the
        method makes one; nothing where no row has a foreground.
    Raises: UserError: an embedding is not finite.
    """
    rows = spread_rows(read_records(beton), NUM_IMAGES)
    if len(rows) < 2:
        return {}
    device = next(method.parameters()).device
    plan = plain_plan(settings.views[0].size_px, settings.views[0].min_foreground)
    found: dict[str, list[Tensor]] = {"features": []}
    with ViewLoader(
        beton,
        plan,
        LoaderOptions(
            batch_size=_BATCH_SIZE, seed=settings.seed, rows=rows, drop_last=False, bad_rows=settings.bad_rows
        ),
        device=device,
    ) as loader:
        for views in stage_bar(loader, stage="embeddings", unit="batch", shown_after_s=1.0):
            feature_BD = method.backbone(views.images[0])
            found["features"].append(feature_BD.float().cpu())
            if isinstance(method, QueryKeyMethod):
                embedding_BE = functional.normalize(method.embed_query(feature_BD), dim=1)
                found.setdefault("embedding", []).append(embedding_BE.float().cpu())
    vectors = {name: torch.cat(parts) for name, parts in found.items()}
    if not all(vector_ND.isfinite().all() for vector_ND in vectors.values()):
        raise UserError("its embeddings are not finite: the run has diverged")
    return {name: vector_ND.numpy() for name, vector_ND in vectors.items()}
