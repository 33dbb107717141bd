"""Settings of runs beside each other, those that differ first and marked."""

from collections.abc import Sequence
from html import escape
from typing import Any

from backdrop.stores.pages import document
from backdrop.trainer.report.loaded_run import Run
from backdrop.trainer.settings import by_path

# What of run.json decides or identifies a run; where its files lay and how it was called does not.
_NOT_COMPARED = ("command", "beton", "store_url", "expected")
_ABSENT = object()


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return every setting, and fact of run.json, that is not the same in all runs: its name to a value per run.

    A setting that a run does not have (of another method, CAST's without CAST) differs from any value.
    """
    facts = [by_path(run.settings) | _facts(run) for run in runs]
    names = dict.fromkeys(name for each in facts for name in each)
    values = {name: [each.get(name, _ABSENT) for each in facts] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found[1:])}


def differences_section(runs: Sequence[Run]) -> str:
    """Return the settings that differ as a table, a column a run; those that only some runs have at all are folded."""
    found = differing(runs)
    if not found:
        return "<p>All settings are equal, and so are seed, store, code and machine: the runs repeat each other.</p>"
    shared = {name: values for name, values in found.items() if _ABSENT not in values}
    partial = {name: values for name, values in found.items() if _ABSENT in values}
    html = _comparison(runs, shared) if shared else "<p>What all runs have is equal in all of them.</p>"
    if partial:
        html += document.folded(f"{len(partial)} settings that only some of the runs have", _comparison(runs, partial))
    return html


def _comparison(runs: Sequence[Run], found: dict[str, list[Any]]) -> str:
    head = ["setting", *(escape(run.title) for run in runs)]
    rows = [[escape(name), *map(_cell, values)] for name, values in found.items()]
    return document.table(head, rows, label="settings that differ", num_text_columns=len(head))


def settings_section(runs: Sequence[Run]) -> str:
    """Return all settings of every run; of several, folded, with a mark where runs differ."""
    if len(runs) == 1:
        return _settings_of(runs[0], ())
    found = differing(runs)
    return "".join(document.folded(f"Settings of {run.title}", _settings_of(run, found)) for run in runs)


def _settings_of(run: Run, marked: Sequence[str] | dict[str, Any]) -> str:
    rows = [_row(name, value, name in marked) for name, value in by_path(run.settings).items()]
    half = (len(rows) + 1) // 2
    made = [_row(name, value, name in marked) for name, value in _facts(run).items()]
    columns = "".join(_table(part, "settings") for part in (rows[:half], rows[half:]))
    return f'<div class="columns">{columns}</div><h3>Made with</h3>{_table(made, "what the run was made with")}'


def _table(rows: list[str], label: str) -> str:
    return document.scrolling(f"<table><tbody>{''.join(rows)}</tbody></table>", label)


def _row(name: str, value: object, is_marked: bool) -> str:
    kind = ' class="differs"' if is_marked else ""
    return f'<tr{kind}><th scope="row">{escape(name)}</th><td class="value">{document.value_html(value)}</td></tr>'


def _cell(value: object) -> str:
    return '<span class="note">none</span>' if value is _ABSENT else f"<mark>{document.value_html(value)}</mark>"


def _facts(run: Run) -> dict[str, Any]:
    """What run.json says, nested parts by path; its seed stands among the settings."""
    flat: dict[str, Any] = {}
    for name, value in run.provenance.items():
        if name in _NOT_COMPARED or name == "seed":
            continue
        if name == "commit":
            value = f"{str(value)[:10]}{'+' * str(value).endswith('+')}"
        if name == "plugins":
            value = {f"{each['set_name']}.{each['member']}": [each["source"], each["sha256"][:12]] for each in value}
        flat |= {f"{name}.{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat
