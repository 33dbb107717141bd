"""Published figures of label-free detectors, as their authors and others reported them, protocol by protocol.

Figures of different protocols do not compare, not even of one detector: F of the same maps differs by more than the
methods do. IoU and accuracy do, between TokenCut, SelfMask and FOUND.
"""

from dataclasses import dataclass

# What a figure is of; in the order of the columns of the papers.
PROTOCOLS = {
    "TokenCut": "native size; max F: per image at 255 thresholds, averaged, then the best (beta^2 = 0.3); IoU at 0.5",
    "SelfMask": "native size; max F: the best of every image, averaged (beta^2 = 0.09); IoU at 0.5",
    "A2S": "maps stretched to [0, 1]; F at twice the map's mean, per image (beta^2 = 0.3); MAE",
    "DeepUSPS": "squares of 432 px after a dense CRF; F at 0.5 per image (beta^2 = 0.3); MAE",
}
_WEIGHTS = "a ViT with public self-supervised weights"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One detector in one protocol.

    family: as --detector names it, up to a colon; "" = none here. figures: set -> figures, as printed.
    """

    name: str
    family: str = ""
    needs: str
    protocol: str
    figures: dict[str, str]
    is_confirmed: bool = True


def _localised(ecssd: tuple[str, str], duts_te: tuple[str, str], dut_omron: tuple[str, str]) -> dict[str, str]:
    """Figures as TokenCut's and SelfMask's tables have them: max F and IoU, in per cent or not."""
    sets = {"ECSSD": ecssd, "DUTS-TE": duts_te, "DUT-OMRON": dut_omron}
    return {name: f"max F {f}, IoU {iou}" for name, (f, iou) in sets.items()}


LITERATURE = (
    Published(
        name="rbd",
        family="rbd",
        needs="nothing",
        protocol="SelfMask",
        figures=_localised((".684", ".517"), (".522", ".392"), (".541", ".416")),
    ),
    Published(
        name="hs",
        family="hs",
        needs="nothing",
        protocol="SelfMask",
        figures=_localised((".673", ".508"), (".504", ".369"), (".561", ".433")),
    ),
    Published(
        name="TokenCut, DINO ViT-S/16",
        family="tokencut",
        needs=_WEIGHTS,
        protocol="TokenCut",
        figures=_localised((".803", ".712"), (".672", ".576"), (".600", ".533")),
    ),
    Published(
        name="TokenCut with bilateral solver",
        family="tokencut",
        needs=_WEIGHTS,
        protocol="TokenCut",
        figures=_localised((".874", ".772"), (".755", ".624"), (".697", ".618")),
    ),
    Published(
        name="LOST",
        needs=_WEIGHTS,
        protocol="SelfMask",
        figures=_localised((".758", ".654"), (".611", ".518"), (".473", ".410")),
    ),
    Published(
        name="FOUND, single",
        family="found",
        needs=f"{_WEIGHTS}; a head trained in minutes",
        protocol="SelfMask",
        figures=_localised((".946", ".793"), (".733", ".637"), (".683", ".586")),
        is_confirmed=False,
    ),
    Published(
        name="FOUND, multi",
        family="found",
        needs=f"{_WEIGHTS}; a head trained in minutes",
        protocol="SelfMask",
        figures=_localised((".955", ".807"), (".715", ".645"), (".663", ".578")),
        is_confirmed=False,
    ),
    Published(
        name="SelfMask",
        needs="two ResNet-50 and a ViT with public self-supervised weights; a training",
        protocol="SelfMask",
        figures=_localised((".889", ".781"), (".750", ".626"), (".680", ".582")),
    ),
    Published(
        name="SelfMask with bilateral solver",
        needs="two ResNet-50 and a ViT with public self-supervised weights; a training",
        protocol="SelfMask",
        figures=_localised((".956", ".818"), (".882", ".660"), (".852", ".655")),
    ),
    Published(
        name="A2S v3",
        needs="a ResNet-50 with public self-supervised weights; a training",
        protocol="A2S",
        figures={"ECSSD": "F .923, MAE .038", "DUTS-TE": "F .816, MAE .047", "DUT-OMRON": "F .759, MAE .062"},
    ),
    Published(
        name="DeepUSPS, as A2S measured it",
        needs="2,500 photographs; a pretrained DRN-D-105",
        protocol="A2S",
        figures={"ECSSD": "F .875, MAE .064", "DUTS-TE": "F .730, MAE .072", "DUT-OMRON": "F .715, MAE .069"},
    ),
    Published(
        name="DeepUSPS2",
        needs="2,500 photographs; a DRN-D-105 pretrained on ImageNet for 500 epochs",
        protocol="DeepUSPS",
        figures={"ECSSD": "F .900, MAE .054", "DUT-OMRON": "F .711, MAE .069"},
    ),
)


def published_set(set_name: str) -> str:
    """Return the published set that a folder is of, or is a part of, by its name; "" = none of them."""
    names = sorted({name for each in LITERATURE for name in each.figures})
    return next((name for name in names if set_name.lower().startswith(name.lower())), "")
