"""Offline: images to masks and backgrounds in a store, and a store to one .beton file."""
