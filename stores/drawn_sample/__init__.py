"""The data set `sample`, drawn by formula: images with true masks, and its variants with other backgrounds."""
