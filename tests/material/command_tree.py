"""The commands of a group, imported: what a test goes through."""

import click


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """Return name -> command."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}
