"""One loss a file, one function an equation."""
