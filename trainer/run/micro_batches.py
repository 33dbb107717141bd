"""A batch taken in parts, one after the other, whose gradients add up: memory of a part, the step of the whole."""

from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from backdrop.pipeline.views.device_stage import Views


def parts_of(views: Views, num_parts: int) -> list[Views]:
    """Return consecutive runs of equally many rows of every tensor.

    Args: views: of B rows. num_parts: divides B.
    """
    if num_parts == 1:
        return [views]
    num_rows = len(views.row_B)
    pieces = {field.name: _pieces(getattr(views, field.name), num_rows, num_parts) for field in fields(views)}
    return [replace(views, **{name: piece[number] for name, piece in pieces.items()}) for number in range(num_parts)]


def _pieces(value: Any, num_rows: int, num_parts: int) -> list[Any]:
    """One value per part: rows of a tensor, rows of each tensor of a list, anything else as it is.

    A tensor of M * B rows (several negatives of a query) holds M for each row of the batch, B apart.
    """
    if isinstance(value, Tensor):
        return [part.flatten(0, 1) for part in value.unflatten(0, (-1, num_rows)).chunk(num_parts, dim=1)]
    if isinstance(value, list):
        by_item = [_pieces(item, num_rows, num_parts) for item in value]
        return [[pieces[number] for pieces in by_item] for number in range(num_parts)]
    return [value] * num_parts
