"""A dry run of a data set's whole way at any number of rows: what it takes, and that nothing grows faster than rows."""
