"""What most users run: torchvision's transforms on PIL images behind a DataLoader, MoCo-v2's recipe, on the CPU."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms

from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD


class Views(torch.utils.data.Dataset):
    """Views of one image each time."""

    def __init__(self, paths: list[Path], sizes_px: tuple[int, ...]) -> None:
        self.paths = paths
        self.pipelines = [moco_v2(size_px) for size_px in sizes_px]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> list[torch.Tensor]:
        with Image.open(self.paths[number]) as file:
            image = file.convert("RGB")
        return [pipeline(image) for pipeline in self.pipelines]


def moco_v2(size_px: int) -> transforms.Compose:
    """Return MoCo-v2's augmentations at a size."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size_px, scale=(0.2, 1.0) if size_px == 224 else (0.05, 0.14)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([transforms.GaussianBlur(size_px // 10 // 2 * 2 + 1, (0.1, 2.0))], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def torchvision_epoch(
    paths: list[Path], sizes_px: tuple[int, ...], batch_size: int, num_workers: int
) -> Callable[[], int]:
    """Return a function that loads one epoch and counts the images; num_workers: processes, 0 = in this one."""
    loader = torch.utils.data.DataLoader(
        Views(paths, sizes_px), batch_size, shuffle=True, drop_last=True,
        num_workers=num_workers, persistent_workers=num_workers > 0, worker_init_fn=_one_thread,
    )  # fmt: skip
    return lambda: sum(len(views[0]) for views in loader)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
