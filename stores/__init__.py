"""Rows to bytes and back: dataset indexes, mask-and-background stores, engines that build them."""
