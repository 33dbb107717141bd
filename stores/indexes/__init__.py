"""A data set as ordered rows with keys, labels and a digest."""
