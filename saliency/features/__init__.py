"""Foregrounds from frozen self-supervised features: the features, TokenCut, FOUND, and what refines their grids."""
