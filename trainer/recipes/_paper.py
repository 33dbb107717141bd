"""What every paper's recipe says when it is asked for a method it does not describe."""

from stores.errors import UserError


def only_for(recipe: str, described: str, method: str) -> None:
    """Raise UserError unless the method is the one the recipe describes."""
    if method != described:
        raise UserError(
            f"recipe {recipe!r} is for method {described!r}, not {method!r}; leave --recipe out to get the "
            "method's own, or give --recipe smoke"
        )
