"""One command for a paper's tables: plan, train what is missing, score it, fill the tables in; a folder as the result.

OUT/wanted.json                      what was asked for, so that `reproduce --report OUT` needs no other words
OUT/trainings/<digest>-<seed>/       a run of pretrain, shared by all rows of one training; report.html in it
OUT/trainings/<digest>-<seed>.json   what failed there, and why
OUT/stores/                          stores of masks that a scale makes by itself
OUT/tables.csv, tables.md, index.html
"""
