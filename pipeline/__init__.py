"""Offline: images to masks and backgrounds in a store. Online: rows to augmented views."""
