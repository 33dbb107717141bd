"""VOC's average precision, object by object and detection by detection, with nothing vectorised."""

from collections.abc import Mapping
from typing import Any


def overlap(a: list[float], b: list[float]) -> float:
    """Shared pixels over all pixels of two boxes (left, top, right, bottom) whose ends belong to them."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(width, 0) * max(height, 0)
    area_a, area_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return common / (area_a + area_b - common)


def reference_ap(found: Mapping[str, Any], objects: Mapping[str, Any], number: int, threshold: float) -> float:
    """AP at eleven recalls of one class at one overlap."""
    rows = []
    for image, each in found.items():
        for box, kind, score in zip(each.box_N4.tolist(), each.class_N, each.score_N, strict=True):
            if kind == number:
                moved = [round(side + shift, 1) for side, shift in zip(box, (1, 1, 0, 0), strict=True)]
                rows.append((round(float(score), 3), image, moved))
    rows.sort(key=lambda row: -row[0])
    num_wanted = sum(
        int(kind == number and not is_difficult)
        for each in objects.values()
        for kind, is_difficult in zip(each.class_M, each.is_difficult_M, strict=True)
    )
    taken, num_right, num_wrong, curve = set(), 0, 0, []
    for _, image, box in rows:
        each = objects[image]
        best, which = -1.0, -1
        for row, (other, kind) in enumerate(zip(each.box_M4.tolist(), each.class_M, strict=True)):
            if kind == number and overlap(box, other) > best:
                best, which = overlap(box, other), row
        if best <= threshold:
            num_wrong += 1
        elif not each.is_difficult_M[which]:
            num_wrong += (image, which) in taken
            num_right += (image, which) not in taken
            taken.add((image, which))
        if num_right + num_wrong:
            curve.append((num_right / num_wanted, num_right / (num_right + num_wrong)))
    best_at = [max([p for r, p in curve if r >= step * 0.1], default=0.0) for step in range(11)]
    return sum(best_at) / 11
