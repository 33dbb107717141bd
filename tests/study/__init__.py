"""The study: do masks help? `make study` trains and scores every cell and keeps a row of each in golden/study.csv."""
