"""DeepUSPS2: a detector trained without labels on what others find."""
