"""Pieces of the HTML pages that any floor may write: style, document, charts, pictures."""
