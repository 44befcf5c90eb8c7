"""How findings are shown, and what they come to."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

from resonate.supervisor.doctor.examination import Named
from resonate.supervisor.doctor.findings import Level

from resonate import __version__

#: Of a line, in characters; a remedy is not broken, so that it can be copied.
WIDTH: Final = 110
_LEVEL: Final = len("problem") + 2


def status(found: Iterable[Named]) -> int:
    """The exit status: 1 if there is a problem, otherwise 0, whatever there may be of warnings."""
    return int(any(named.finding.level is Level.PROBLEM for named in found))


def as_json(found: Sequence[Named]) -> str:
    """One object."""
    entries = [_entry(named) for named in found]
    return json.dumps({"version": __version__, **_counts(found), "findings": entries})


def _entry(named: Named) -> dict[str, Any]:
    finding = named.finding
    return {
        "check": named.check,
        "level": finding.level.value,
        "what": finding.what,
        "why": finding.why,
        "remedy": finding.remedy,
    }


def as_text(found: Sequence[Named]) -> str:
    """A line or several for each, and the sum."""
    names = max(len(named.check) for named in found) + 2
    lines = [f"resonate doctor {__version__}", ""]
    for named in found:
        lines += _lines(named, names)
    counts = _counts(found)
    total = f"{_number(counts['problems'], 'problem')}, {_number(counts['warnings'], 'warning')}"
    return "\n".join([*lines, "", total])


def _lines(named: Named, names: int) -> list[str]:
    finding, margin = named.finding, " " * (_LEVEL + names)
    lines = _wrapped(finding.what, f"{finding.level.value:<{_LEVEL}}{named.check:<{names}}", margin)
    if finding.why:
        lines += _wrapped(f"why: {finding.why}", margin, margin)
    if finding.remedy:
        lines.append(f"{margin}do:  {finding.remedy}")
    return lines


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _counts(found: Iterable[Named]) -> dict[str, int]:
    levels = [named.finding.level for named in found]
    return {"problems": levels.count(Level.PROBLEM), "warnings": levels.count(Level.WARNING)}


def _number(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
