"""Options that several commands share and that speak of detectors."""

import click

from backdrop.saliency.detectors import detector_help


class DetectorOption(click.Option):
    """Takes a detector's name; its help lists those that there are, plug-ins too."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Put the list before what the command says itself, now that the plug-ins are known."""
        said, self.help = self.help, f"{detector_help()} {self.help or ''}".strip()
        record = super().get_help_record(ctx)
        self.help = said
        return record
