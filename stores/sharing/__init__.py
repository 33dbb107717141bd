"""Stores that teams share: published, pulled, read through a cache."""
