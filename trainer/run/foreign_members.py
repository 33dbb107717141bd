"""Which plug-ins a run uses, and whether they are at hand and as they were: a run's folder holds none of them."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from backdrop.errors import UserError
from backdrop.open_sets import MemberOrigin, OpenSet
from backdrop.pipeline.views.backgrounds import BACKGROUNDS
from backdrop.progress import warn
from backdrop.trainer.backbones import BACKBONES, family_of
from backdrop.trainer.methods import METHODS
from backdrop.trainer.recipes import RECIPES
from backdrop.trainer.settings import RunSettings

_SETS: dict[str, OpenSet[Any]] = {each.name: each for each in (METHODS, BACKGROUNDS, BACKBONES, RECIPES)}


def members_used(settings: RunSettings, recipe: str) -> list[dict[str, Any]]:
    """Return what of a run comes from plug-ins, for its run.json. Args: recipe: its name, of any kind."""
    origins = [
        METHODS.origin(settings.method),
        BACKGROUNDS.origin(settings.background.name),
        BACKBONES.origin(family_of(settings.backbone)),
        RECIPES.origin(recipe) if recipe in RECIPES.names() else None,
    ]
    return [asdict(origin) for origin in origins if origin is not None]


def check_members(folder: Path, provenance: dict[str, Any], *, must_be_same: bool) -> None:
    """Look for the plug-ins of a run.

    Args: folder: of the run. provenance: its run.json. must_be_same: whether a changed file is an error, as it is for
        --resume; it is warned of otherwise, once a process.
    Raises: UserError: one is not at hand, or is another file than it was.
    """
    for record in provenance.get("plugins") or []:
        then = _origin(folder, record)
        what = f"the run in {folder} uses the {then.set_name[:-1]} {then.member!r} of {then.source}"
        if then.member not in _SETS[then.set_name].names():
            how = f"given: add --plugin PATH/{then.source}" if then.is_file else "installed here: install it"
            raise UserError(f"{what}, which is not {how}")
        now = _SETS[then.set_name].origin(then.member)
        if now is None or now.sha256 == then.sha256:
            continue
        changed = f"{what}, whose text is another one now (sha256 {then.sha256[:12]} -> {now.sha256[:12]})"
        if must_be_same:
            raise UserError(f"{changed}; give it as it was to go on with the run, or name another --out")
        _warn_once(changed)


def _origin(folder: Path, record: Any) -> MemberOrigin:
    try:
        then = MemberOrigin(**record)
        _SETS[then.set_name].unknown(then.member)
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder}/run.json is damaged: {record!r:.80} is no plug-in; put it back as it was") from error
    return then


@cache
def _warn_once(message: str) -> None:
    warn(message)
