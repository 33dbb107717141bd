"""Options that several commands share and that speak of detectors."""

import click
from click.shell_completion import CompletionItem

from backdrop.saliency.detectors import detector_help, detector_names


class DetectorOption(click.Option):
    """Takes a detector's name; its help lists those that there are, plug-ins too."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the names that are known beforehand, those of plug-ins too; of others, files' names."""
        names = [name for name in detector_names() if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Put the list before what the command says itself, now that the plug-ins are known."""
        said, self.help = self.help, f"{detector_help()} {self.help or ''}".strip()
        record = super().get_help_record(ctx)
        self.help = said
        return record
