"""Every table of both papers as data: each number, the training behind it, and the evaluation that gives it.

`numbers.csv` has one number a line (1,851), `subjects.csv` one line for everything that is scored: for a network of
ours its recipe and the settings that the paper states, `evaluations.csv` which evaluation writes which number,
`scales.toml` what a row becomes where the papers' scale is out of reach.

    from backdrop.trainer.paper_tables.tables import papers, table, tables
    for row in table("ryali", "4").rows:
        row.name, row.training, row.cells, row.note
        row.training.request(seed=1)      # what `pretrain` takes
        row.training.digest()             # equal for rows that are one run
        for cell in row.cells:
            cell.evaluation, cell.score   # of `evaluate TASK --set ...`, and the name of its score

Records: `records.py` (`Training`, `Evaluation`, `Cell`, `Row`, `Table`), all frozen, compared by value: rows that
share a training have equal `Training`s. What is read: `tables.py` (`papers`, `tables`, `table`, `trainings`). Scales:
`scales.py` (`Scale`, `scale`, `at_scale`). Which row a finished run is: `matching.py`.
"""
