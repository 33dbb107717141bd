"""Print the tables of the study's kept rows and draw its charts beside STUDY.md: python -m tests.study"""

from pathlib import Path

from tests.study.charts import charts
from tests.study.table import markdown, papers_tables, read_cells


def main() -> None:
    """Print the tables; write the charts."""
    cells = read_cells()
    for name, svg in charts(cells).items():
        Path(__file__).with_name(name).write_text(svg, encoding="utf-8")
    print(papers_tables(), markdown(cells), sep="\n\n")


if __name__ == "__main__":
    main()
