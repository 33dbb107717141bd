"""Named settings; a file's name is the recipe's name on the command line."""

from typing import TYPE_CHECKING, Protocol

from backdrop.open_sets import OpenSet

if TYPE_CHECKING:
    from backdrop.trainer.settings import RunSettings


class RecipeFile(Protocol):
    """What a file of `trainer/recipes/`, or a plug-in of the set `recipes`, provides.

    Its docstring says which table it reproduces, with the command, the expected score and the cost.
    """

    def settings(self, method: str, background: str, with_cast: bool) -> "RunSettings":
        """Return the recipe's settings, before the user's own changes.

        Args: method, background: names of members of those sets. with_cast: whether CAST is added to the method.
        Raises: UserError: the recipe is not for that method.
        """


RECIPES: OpenSet[RecipeFile] = OpenSet("recipes", __name__, __path__, contract=RecipeFile)
NAMES = RECIPES.built_in()
