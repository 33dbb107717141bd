"""Slow float64 loop restatements of the equations, for tests only."""
