"""Detectors against true masks: metrics, and a page about them."""
