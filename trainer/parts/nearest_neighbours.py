"""k nearest neighbours by cosine, weighted votes: Wu et al. 2018 (instance discrimination), section 3.4.

Axes: M test images, N training images, K neighbours, C classes, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backdrop.progress import stage_bar
from backdrop.trainer.parts.collectives import summed
from backdrop.trainer.parts.pieces import own_pieces

# DINO's evaluation (Caron et al. 2021, arXiv 2104.14294): neighbours that vote, and T of the votes exp(s / T).
NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07
# Images compared at once: similarities of a chunk of each take 32 MB, and three times that to sort them.
_TEST_CHUNK, _TRAIN_CHUNK = 1024, 8192


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a set of images, on the host.

    feature_ND: float16 or float32, unit length, of all images. row_M: int64, rows of those that are there; None = all.
    label_N: int64, classes of those that are there. corrupt: keys of the others.
    """

    feature_ND: Tensor
    label_N: Tensor
    corrupt: tuple[str, ...]
    row_M: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label_N)

    def chunk(self, start: int, stop: int, device: torch.device | str) -> Tensor:
        """Return float32 features of the images `start` to `stop` of those that are there."""
        rows = slice(start, stop) if self.row_M is None else self.row_M[start:stop]
        return self.feature_ND[rows].to(device).float()


def top_accuracies(
    train: Features,
    test: Features,
    *,
    num_classes: int,
    k: Sequence[int],
    temperature: float,
    device: torch.device | str = "cpu",
    is_shared: bool = False,
) -> list[tuple[float, float]]:
    """Return the percentages of test images whose class gets the most votes, and is among the five with most votes.

    Args: train, test: features and labels. num_classes: C. k: numbers of neighbours. temperature: T of the votes.
        is_shared: whether each process that torchrun started looks at a share of the test images.
    Returns: (top1, top5) for each k.
    """
    num_hits = torch.zeros(len(k), 2, dtype=torch.int64)
    starts = range(0, len(test), _TEST_CHUNK)
    own_starts = list(own_pieces(starts)) if is_shared else starts
    for start in stage_bar(own_starts, stage="neighbours", unit="batch", is_inner=True):
        feature_MD = test.chunk(start, start + _TEST_CHUNK, device)
        similarity_MK, neighbour_MK = neighbours(feature_MD, train, max(k))
        label_M1 = test.label_N[start : start + _TEST_CHUNK, None]
        for number, num_voters in enumerate(k):
            voter_MK = nearest(similarity_MK, min(num_voters, similarity_MK.shape[1]))
            similarity_MV, row_MV = similarity_MK.gather(1, voter_MK).cpu(), neighbour_MK.gather(1, voter_MK).cpu()
            vote_MC = votes(similarity_MV, train.label_N[row_MV], num_classes=num_classes, temperature=temperature)
            # A stable sort: of classes with equally many votes, the first counts as the winner, on every machine.
            ranked_MC = vote_MC.sort(dim=1, descending=True, stable=True).indices
            is_hit_MC = ranked_MC == label_M1
            num_hits[number] += torch.stack([is_hit_MC[:, :1].sum(), is_hit_MC[:, :5].sum()])
    num_hits = summed(num_hits) if is_shared else num_hits
    return [(100.0 * int(top1) / len(test), 100.0 * int(top5) / len(test)) for top1, top5 in num_hits]


def neighbours(feature_MD: Tensor, train: Features, k: int) -> tuple[Tensor, Tensor]:
    """Return the k most similar training images, all of them where there are fewer; see `nearest`.

    Args: feature_MD: float32 (M, D), unit length, where to compute. train: training features.
    Returns: similarities float32 (M, K) and their rows int64 (M, K), rows ascending.
    """
    similarity_MK = torch.empty(len(feature_MD), 0, device=feature_MD.device)
    row_MK = torch.empty(len(feature_MD), 0, dtype=torch.int64, device=feature_MD.device)
    for start in range(0, len(train), _TRAIN_CHUNK):
        feature_ND = train.chunk(start, start + _TRAIN_CHUNK, feature_MD.device)
        similarity_MN = feature_MD @ feature_ND.T
        taken_MK = nearest(similarity_MN, min(k, similarity_MN.shape[1]))
        # What was found before comes first: its rows are the smaller ones.
        similarity_MK = torch.cat([similarity_MK, similarity_MN.gather(1, taken_MK)], dim=1)
        row_MK = torch.cat([row_MK, taken_MK + start], dim=1)
        kept_MK = nearest(similarity_MK, min(k, similarity_MK.shape[1]))
        similarity_MK, row_MK = similarity_MK.gather(1, kept_MK), row_MK.gather(1, kept_MK)
    return similarity_MK, row_MK


def votes(similarity_MK: Tensor, label_MK: Tensor, *, num_classes: int, temperature: float) -> Tensor:
    """Return the votes exp(s / T) of each test image's neighbours, summed per class.

    Args: similarity_MK: float (M, K). label_MK: int64 (M, K), classes. num_classes: C. temperature: T.
    Returns: float64 (M, C).
    """
    weight_MK = (similarity_MK.double() / temperature).exp()
    vote_MC = torch.zeros(len(similarity_MK), num_classes, dtype=torch.float64)
    return vote_MC.scatter_add_(1, label_MK, weight_MK)


def nearest(similarity_MN: Tensor, k: int) -> Tensor:
    """Return the k most similar training images of each test image; of equally similar ones, the first.

    `topk` alone leaves open which of equal values it takes.

    Args: similarity_MN: float (M, N). k: 1 .. N. Returns: int64 (M, k), ascending rows of the training set.
    """
    smallest_M1 = similarity_MN.topk(k, dim=1).values[:, -1:]
    is_above_MN = similarity_MN > smallest_M1
    is_tied_MN = similarity_MN == smallest_M1
    num_free_M1 = k - is_above_MN.sum(dim=1, keepdim=True)
    is_taken_MN = is_above_MN | (is_tied_MN & (is_tied_MN.cumsum(dim=1, dtype=torch.int32) <= num_free_M1))
    return is_taken_MN.nonzero()[:, 1].reshape(len(similarity_MN), k)
