"""Named settings; a file's name is the recipe's name on the command line."""
