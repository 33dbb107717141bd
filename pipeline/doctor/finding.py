"""One line of `doctor`: what was looked at, how it is, what was found, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found about one subject.

    state: "ok"; "note" = it works, with a limit worth knowing; "problem" = something of Backdrop does not work.
    to_do: what to do about it, "" where there is nothing.
    """

    subject: str
    state: Literal["ok", "note", "problem"]
    found: str
    to_do: str = ""


def lines_of(findings: Sequence[Finding]) -> str:
    """Return findings as lines for people: the state, the subject, what was found, and after "->" what to do."""
    width = max(len(finding.subject) for finding in findings)
    return "\n".join(
        f"{finding.state:7}  {finding.subject:{width}}  {finding.found}" + (finding.to_do and f" -> {finding.to_do}")
        for finding in findings
    )
