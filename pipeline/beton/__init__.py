"""The .beton, a store with its images as one file that trains at full speed: layout, writing, reading."""
