"""Detectors fine-tuned from a backbone."""
