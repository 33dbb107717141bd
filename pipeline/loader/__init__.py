"""Online: rows of a .beton file to batches of cropped views with their masks."""
