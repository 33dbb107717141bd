"""What a store is on disk: its schema, and how it is written and read."""
