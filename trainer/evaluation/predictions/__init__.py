"""What a classifier answers to each image of a set, kept once and read in many ways."""
