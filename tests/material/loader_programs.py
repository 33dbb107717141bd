"""Programs that `test_loader_robustness.py` runs in processes of their own: NAME FILE.beton ..."""

import hashlib
import os
import sys
import time
from itertools import islice
from pathlib import Path

STARTED = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.utils.data  # noqa: E402

from backdrop.errors import UserError  # noqa: E402
from backdrop.pipeline.loader.loader import Loader  # noqa: E402
from backdrop.pipeline.loader.loader_options import LoaderOptions  # noqa: E402
from backdrop.pipeline.views.view_plan import Background, View, ViewPlan  # noqa: E402

PLAN = ViewPlan(views=(View(size_px=32), View(size_px=32)), background=Background(name="random", probability=0.5))


class Noise(torch.utils.data.Dataset):
    """What an evaluation beside the training reads."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.full((3, 8, 8), float(number)).sqrt()


def side_by_side(beton: Path, start_method: str) -> None:
    """Two loaders in the middle of their epochs while a DataLoader starts and ends its workers, twice."""
    with (
        Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=0, num_threads=2)) as first,
        Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=1, num_threads=2)) as second,
    ):
        for epoch in range(2):
            others = torch.utils.data.DataLoader(
                Noise(), batch_size=8, num_workers=2, multiprocessing_context=start_method
            )
            count = 0
            for a, b, c in zip(first.epoch(epoch), second.epoch(epoch), others, strict=False):
                assert len(a.row_B) == 4
                assert len(b.row_B) == 2
                assert c.shape == (8, 3, 8, 8)
                count += 1
            assert count == min(first.num_batches, second.num_batches, len(others))


def end_early(beton: Path) -> None:
    """Leave loader and epoch as they are."""
    loader = Loader(beton, PLAN, LoaderOptions(batch_size=2, seed=0, num_threads=2))
    globals()["kept"] = (loader, epoch := loader.epoch(0))
    next(epoch)


def first_batch(beton: Path) -> None:
    """Print the seconds of the imports, and from then to the first batch."""
    imported = time.perf_counter()
    with Loader(beton, PLAN, LoaderOptions(batch_size=4, seed=0)) as loader:
        next(loader.epoch(0))
        print(imported - STARTED, time.perf_counter() - imported)


def memory(beton: Path, batch_size: str) -> None:
    """Print by how many bytes two epochs of eight views raised the most memory that was ever held."""
    plan = ViewPlan(views=(View(size_px=32),) * 8)
    with Loader(beton, plan, LoaderOptions(batch_size=2, seed=0, num_threads=1, rows=range(1, 5))) as loader:
        for _ in loader.epoch(0):  # compiled code is loaded before the count
            pass
    before = peak_bytes()
    with Loader(beton, plan, LoaderOptions(batch_size=int(batch_size), seed=0, num_threads=1)) as loader:
        for epoch in range(2):
            for _ in islice(loader.epoch(epoch), loader.num_batches):
                pass
    print(peak_bytes() - before)


def read_many(beton: Path) -> None:
    """For each line of input read the file once more; answer "read DIGEST", "refused MESSAGE" or "raised ERROR"."""
    background = Background(name="random", probability=1.0)
    plan = ViewPlan(
        views=(View(size_px=20, min_foreground=0.2),) * 2, background=background, crop_proposal="centroid",
        crop_fallback="bbox", pair_constraint=True,
    )  # fmt: skip
    for line in sys.stdin:
        try:
            answer = f"read {digest_of_epoch(beton, plan, line.strip())}"
        except UserError as error:
            answer = f"refused {error}"
        except Exception as error:
            answer = f"raised {error!r}"
        print(answer.replace("\n", " "), flush=True)


def digest_of_epoch(beton: Path, plan: ViewPlan, geometry: str) -> str:
    digest = hashlib.sha256()
    with Loader(
        beton, plan, LoaderOptions(batch_size=8, seed=0, num_threads=1, drop_last=False, geometry=geometry)
    ) as loader:
        for batch in loader.epoch(0):
            digest.update(batch.row_B.numpy().tobytes() + batch.label_B.numpy().tobytes())
            digest.update("".join(loader.key(int(row)) for row in batch.row_B).encode())
            for view, record_B in enumerate(batch.records):
                digest.update(record_B.tobytes())
                if geometry == "host":
                    digest.update(batch.views[view].image_BHWC.numpy().tobytes())
                    digest.update(batch.views[view].mask_BHP.numpy().tobytes())
                    drawn = np.flatnonzero(record_B["has_background"])
                    digest.update(batch.views[view].donor_BHWC.numpy()[drawn].tobytes())
    return digest.hexdigest()


def beside_ffcv(beton: Path, images: str, order: str) -> None:
    """Use FFCV's own Loader and ours in turn; order: of "ours" (with kernels compiled anew) and "ffcv", with commas."""
    from tests.bench.ffcv_peer import ffcv_epoch
    from tests.bench.loader import decoded_per_s

    paths = sorted(Path(images).rglob("*.jpg"))
    their_epoch, digests = None, []
    for step in order.split(","):
        if step == "ours":
            decoded_per_s(beton)
            digests.append(digest_of_epoch(beton, PLAN, "host"))
        else:
            their_epoch = their_epoch or ffcv_epoch(paths, Path(images), (96,), 4, 1)
            assert their_epoch() == len(paths) // 4 * 4
    assert len(set(digests)) == 1
    print("equal")


def peak_bytes() -> int:
    """Most anonymous memory ever held would be best; the kernel tells of all memory, the mapped file included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise OSError("no VmHWM")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
    print("done" if sys.argv[1] in ("side_by_side", "end_early") else "")
