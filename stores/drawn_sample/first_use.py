"""The sample data set is drawn by the command that is given it, before it opens it."""

from pathlib import Path

from backdrop.stores.datasets import dataset_folder


def draw_at_first_use(dataset: str | None, root: Path | None) -> None:
    """Draw the sample where that is what a command was given and it is not there yet.

    Args: dataset: what it was given. root: the data set's folder, see `open_index`.
    Raises: UserError as `draw_if_absent`.
    """
    if dataset != "sample":
        return
    from backdrop.stores.drawn_sample.sample_dataset import draw_if_absent  # OpenCV and scikit-image

    draw_if_absent(dataset_folder(dataset, root))
