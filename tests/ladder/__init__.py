"""The ladder's tables in the documents: what was measured is kept, tables are made from it."""
