"""Pages to browse a store's rows by eye."""
