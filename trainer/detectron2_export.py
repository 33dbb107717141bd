"""Weights, configuration and command for detectron2, with which both papers measured detection.

The weights are the `.pkl` that MoCo's converter writes: a pickle of arrays by name. With `matching_heuristics`,
detectron2 finds each of them by the longest common end of its name, so that `res5.*` also reaches the region head of a
C4 detector (`roi_heads.res5.*`). We write this file and never read one: unpickling runs what a file says. It names
nothing but `numpy.ndarray` and `bytearray`, which are there in every version of numpy (its own pickles name a private
module, which moved in numpy 2).

The configuration is a YAML file (its body is JSON, which is YAML) that holds every setting the papers change, without
a base file. `Res5ROIHeadsExtraNorm`, the extra BatchNorm after res5, is defined by MoCo's `detection/train_net.py`.
"""

import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import write_aside
from backdrop.errors import UserError
from backdrop.progress import note_default
from backdrop.stores.images.imagenet_statistics import IMAGENET_MEAN, IMAGENET_STD
from backdrop.trainer.evaluation import coco_segmentation, voc_detection
from backdrop.trainer.evaluation.harness.weights import load_network
from backdrop.trainer.methods import METHODS
from backdrop.trainer.parts.backbones import Backbone
from backdrop.trainer.run.run_folder import read_settings

WEIGHTS_FILE, CONFIG_FILE, COMMAND_FILE = "weights.pkl", "config.yaml", "command.sh"
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_MOCO_SCRIPT = "https://github.com/facebookresearch/moco/tree/main/detection"


@dataclass(frozen=True)
class Protocol:
    """What one table was measured with. paper: where. norm: detectron2's name."""

    paper: str
    form: str
    norm: str


PROTOCOLS = {
    "voc-ryali": Protocol("Ryali et al. 2021, Tables 19 and A27, A.10", "c4", "naiveSyncBN"),
    "coco-ryali": Protocol("Ryali et al. 2021, Tables 19 and A27, A.10", "c4", "naiveSyncBN"),
    "voc-cast": Protocol("Selvaraju et al. 2021 (CAST), Table 1", "c4", "SyncBN"),
    "coco-cast": Protocol("Selvaraju et al. 2021 (CAST), Table 1", "fpn", "SyncBN"),
}


def export_detectron2(run_or_weights: Path, out: Path, *, protocol: str, method: str | None = None) -> list[Path]:
    """Write weights.pkl, config.yaml and command.sh for detectron2.

    Args: run_or_weights: as `load_network` takes it; a ResNet-50, -101 or -152. out: folder, made where it is missing.
        protocol: one of PROTOCOLS. method: whose learning rate and warm-up, None = the run's own, MoCo's for a file of
        weights; on COCO the papers have one for all.
    Returns: the files.
    Raises: UserError: unknown protocol or method, or another network.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol={protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    method = method or _method_of(Path(run_or_weights))
    METHODS.load(method)  # the header names it, also where its rates are not asked for
    backbone, _ = load_network(run_or_weights)
    config = detectron2_config(protocol, method, depth=_depth(backbone))
    command = (
        f"# train_net.py: {_MOCO_SCRIPT}\n"
        f"python train_net.py --config-file {CONFIG_FILE} --num-gpus 8 MODEL.WEIGHTS {WEIGHTS_FILE}\n"
    )
    header = f"# {PROTOCOLS[protocol].paper}; settings of {method}.\n# {command.splitlines()[-1]}\n"
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_aside(out / WEIGHTS_FILE, detectron2_weights(backbone.state_dict()))
        write_aside(out / CONFIG_FILE, header + json.dumps(config, indent=2) + "\n")
        write_aside(out / COMMAND_FILE, command)
    return [out / WEIGHTS_FILE, out / CONFIG_FILE, out / COMMAND_FILE]


def _method_of(run_or_weights: Path) -> str:
    """Whose rates are taken when no method is named; said."""
    if run_or_weights.is_dir():
        method, why = read_settings(run_or_weights).method, "the run's"
    else:
        method, why = "moco", "a file of weights names none; --method for another's rates"
    note_default("method", method, why)
    return method


def detectron2_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """Pickle a ResNet's tensors under detectron2's names, as arrays. Args: tensors: under torchvision's names."""
    arrays = {detectron2_name(name): value.detach().cpu().numpy() for name, value in tensors.items()}
    file = io.BytesIO()
    _ArrayPickler(file, protocol=4).dump({"model": arrays, "__author__": "Backdrop", "matching_heuristics": True})
    return file.getvalue()


class _ArrayPickler(pickle.Pickler):
    """Says of an array: call numpy.ndarray with its shape, its dtype's name and its bytes."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))


def detectron2_name(name: str) -> str:
    """Rename one tensor of a ResNet from torchvision's names to detectron2's."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def detectron2_config(protocol: str, method: str, *, depth: int = 50) -> dict[str, Any]:
    """The settings that the papers change from detectron2's defaults, as its configuration names them."""
    chosen = PROTOCOLS[protocol]
    is_voc = protocol.startswith("voc")
    options = voc_detection.Options() if is_voc else coco_segmentation.Options()
    rates = asdict(voc_detection.rates_of(method, "", "method")[1]) if is_voc else coco_segmentation.SETTINGS
    train = ["voc_2007_trainval", "voc_2012_trainval"] if is_voc else ["coco_2017_train"]
    model = _c4_model() if chosen.form == "c4" else _fpn_model(chosen.norm)
    model["META_ARCHITECTURE"] = "GeneralizedRCNN"
    model["MASK_ON"] = not is_voc
    model["RESNETS"] |= {"DEPTH": depth, "NORM": chosen.norm, "STRIDE_IN_1X1": False}
    model["ROI_HEADS"]["NUM_CLASSES"] = len(voc_detection.CLASSES) if is_voc else coco_segmentation.NUM_CATEGORIES
    model["PIXEL_MEAN"] = [round(255 * value, 3) for value in IMAGENET_MEAN]
    model["PIXEL_STD"] = [round(255 * value, 3) for value in IMAGENET_STD]
    return {
        "VERSION": 2,
        "MODEL": model,
        "INPUT": {
            "FORMAT": "RGB",
            "MIN_SIZE_TRAIN": list(options.sizes.train_short_px),
            "MIN_SIZE_TEST": options.sizes.test_short_px,
        },
        "DATASETS": {"TRAIN": train, "TEST": ["voc_2007_test" if is_voc else "coco_2017_val"]},
        "SOLVER": {
            "IMS_PER_BATCH": options.schedule.batch_size,
            "BASE_LR": rates["lr"],
            "STEPS": list(options.schedule.tenth_at),
            "MAX_ITER": options.schedule.iterations,
            "WARMUP_ITERS": rates["warmup_iterations"],
            "WARMUP_FACTOR": rates["warmup_start_fraction"],
        },
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
    }


def _c4_model() -> dict[str, Any]:
    return {
        "BACKBONE": {"FREEZE_AT": 0},
        "RESNETS": {},
        "RPN": {"PRE_NMS_TOPK_TEST": 6000, "POST_NMS_TOPK_TEST": 1000},
        "ROI_HEADS": {"NAME": "Res5ROIHeadsExtraNorm"},
    }


def _fpn_model(norm: str) -> dict[str, Any]:
    levels = ["p2", "p3", "p4", "p5"]
    stages = ["res2", "res3", "res4", "res5"]
    return {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {"OUT_FEATURES": stages},
        "FPN": {"IN_FEATURES": stages, "NORM": norm},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {
            "IN_FEATURES": [*levels, "p6"],
            "PRE_NMS_TOPK_TRAIN": 2000,
            "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000,
            "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": levels},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 4, "POOLER_RESOLUTION": 14},
    }


def _depth(backbone: Backbone) -> int:
    children = dict(backbone.named_children())
    stages = [children.get(f"layer{stage}") for stage in range(1, 5)]
    blocks = tuple(len(list(stage.children())) for stage in stages if stage is not None)
    names = set(backbone.state_dict())
    if blocks not in _DEPTHS or "layer1.0.conv3.weight" not in names or backbone.conv1.stride != (2, 2):
        raise UserError("detectron2's protocols are for ResNet-50, -101 and -152 without cifar_stem; this is none")
    return _DEPTHS[blocks]
