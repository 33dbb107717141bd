"""Published figures of label-free detectors, as their authors and others reported them, protocol by protocol.

Figures of different protocols do not compare, not even of one detector: F of the same maps differs by more than the
methods do. IoU and accuracy do, between TokenCut, SelfMask and FOUND.
"""

from dataclasses import dataclass

from backdrop.saliency.scoring.needs import FOUND_HEAD, NOTHING, PUBLIC_SEVERAL, PUBLIC_VIT


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a table of figures was measured. figures: what its numbers are, with a place for each."""

    words: str
    figures: str


# In the order of the columns of the papers.
PROTOCOLS = {
    "TokenCut": Protocol(
        words="native size; max F: per image at 255 thresholds, averaged, then the best (beta^2 = 0.3); IoU at 0.5",
        figures="max F {}, IoU {}",
    ),
    "SelfMask": Protocol(
        words="native size; max F: the best of every image, averaged (beta^2 = 0.09); IoU at 0.5",
        figures="max F {}, IoU {}",
    ),
    "A2S": Protocol(
        words="maps stretched to [0, 1]; F at twice the map's mean, per image (beta^2 = 0.3); MAE",
        figures="F {}, MAE {}",
    ),
    "DeepUSPS": Protocol(
        words="squares of 432 px after a dense CRF; F at 0.5 per image (beta^2 = 0.3); MAE",
        figures="F {}, MAE {}",
    ),
}
SETS = ("ECSSD", "DUTS-TE", "DUT-OMRON")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One detector in one protocol.

    family: as --detector names it, up to a colon; "" = none here. figures: set -> figures, as printed.
    """

    name: str
    family: str
    needs: str
    protocol: str
    figures: dict[str, str]
    is_confirmed: bool = True


_SELFMASK_NEEDS = f"{PUBLIC_SEVERAL}; a training"
# Name, family, needs and protocol; figures on each of `SETS`, "" = none.
_TABLE = (
    ("rbd", "rbd", NOTHING, "SelfMask", ".684 .517", ".522 .392", ".541 .416"),
    ("hs", "hs", NOTHING, "SelfMask", ".673 .508", ".504 .369", ".561 .433"),
    ("TokenCut, DINO ViT-S/16", "tokencut", PUBLIC_VIT, "TokenCut", ".803 .712", ".672 .576", ".600 .533"),
    ("TokenCut with bilateral solver", "tokencut", PUBLIC_VIT, "TokenCut", ".874 .772", ".755 .624", ".697 .618"),
    ("LOST", "lost", PUBLIC_VIT, "SelfMask", ".758 .654", ".611 .518", ".473 .410"),
    ("LOST with bilateral solver", "lost", PUBLIC_VIT, "SelfMask", ".837 .723", ".697 .572", ".578 .489"),
    ("FOUND, single", "found", FOUND_HEAD, "SelfMask", ".946 .793", ".733 .637", ".683 .586"),
    ("FOUND, multi", "found", FOUND_HEAD, "SelfMask", ".955 .807", ".715 .645", ".663 .578"),
    ("SelfMask's vote", "selfmask", PUBLIC_SEVERAL, "SelfMask", "- .646", "- .466", "- .403"),
    ("SelfMask", "", _SELFMASK_NEEDS, "SelfMask", ".889 .781", ".750 .626", ".680 .582"),
    ("SelfMask with bilateral solver", "", _SELFMASK_NEEDS, "SelfMask", ".956 .818", ".882 .660", ".852 .655"),
    (
        "A2S v3", "", "a ResNet-50 with public self-supervised weights; a training",
        "A2S", ".923 .038", ".816 .047", ".759 .062",
    ),
    (
        "DeepUSPS, as A2S measured it", "", "2,500 photographs; a pretrained DRN-D-105",
        "A2S", ".875 .064", ".730 .072", ".715 .069",
    ),
    (
        "DeepUSPS2", "", "2,500 photographs; a DRN-D-105 pretrained on ImageNet for 500 epochs",
        "DeepUSPS", ".900 .054", "", ".711 .069",
    ),
)  # fmt: skip
# Figures that no copy of the paper was at hand for.
_NOT_CONFIRMED = ("FOUND, single", "FOUND, multi")


def _published(name: str, family: str, needs: str, protocol: str, *numbers: str) -> Published:
    words = PROTOCOLS[protocol].figures
    given = zip(SETS, numbers, strict=True)
    return Published(
        name=name,
        family=family,
        needs=needs,
        protocol=protocol,
        figures={each: words.format(*text.split()) for each, text in given if text},
        is_confirmed=name not in _NOT_CONFIRMED,
    )


LITERATURE = tuple(_published(*row) for row in _TABLE)


def published_set(set_name: str) -> str:
    """Return the published set that a folder is of, or is a part of, by its name; "" = none of them."""
    return next((name for name in SETS if set_name.lower().startswith(name.lower())), "")
