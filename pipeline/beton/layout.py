"""The name and version of a .beton's layout, as its sidecar states them; apart, for those who import nothing heavy."""

FORMAT = "backdrop-scenes"
FORMAT_VERSION = 2
# Of files whose images are planes, which versions that knew JPEGs alone cannot read.
PLANES_VERSION = 3
# Of shards, and of the folder of them.
SHARDS_VERSION = 4
