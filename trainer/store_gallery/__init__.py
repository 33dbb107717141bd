"""A page about a store: all its rows, browsed in a browser."""
