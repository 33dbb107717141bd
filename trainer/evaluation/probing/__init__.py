"""Classifiers fitted to frozen features."""
