"""ObjectNet's four mappings, of four objects."""

import json
from pathlib import Path

# Folder to label; sorted as folders they are in another order than as labels. Bicycle's first class is the larger one.
FOLDERS = {"air_freshener": "Zebra mat", "alarm_clock": "Alarm clock", "bike": "Bicycle", "zz_bannana": "Banana"}


CLASSES = {"Alarm clock": (409, 530), "Bicycle": (671, 444), "Banana": (954,)}


def write_mappings(folder: Path) -> None:
    folder.mkdir(parents=True)
    # The ids of 2012 are the classes backwards, and the names stand in their order.
    names = [f"name {999 - number}, of class {999 - number}" for number in range(1000)]
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(names) + "\n")
    identities = {str(label): 999 - label for label in range(1000)}
    (folder / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps(identities))
    joined = {
        label: "; ".join(f"name {each}, of class {each}" for each in classes) for label, classes in CLASSES.items()
    }
    (folder / "objectnet_to_imagenet_1k.json").write_text(json.dumps(joined))
    (folder / "folder_to_objectnet_label.json").write_text(json.dumps(FOLDERS))
