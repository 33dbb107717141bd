"""The command line, called as a function."""

from pathlib import Path

from backdrop import cli


def run(*words: str | Path) -> None:
    cli.main([str(word) for word in words], standalone_mode=False)
