"""Measurements, each beside its peer in the same run: `make bench` writes them to bench.json."""
