"""Name -> detector, and the maps of many images."""
