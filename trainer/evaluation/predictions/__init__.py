"""A classifier's outputs for each image of a set, kept once and read in many ways."""
