"""The tables of what may follow what, as diagrams.

`python -m resonate.supervisor.diagram FILE` renews those in a file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from resonate.supervisor.generation import PHASES, Phase
from resonate.supervisor.process import TRANSITIONS, State

_BLOCK: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def mermaid(table: Mapping[Any, Mapping[Any, Enum]], first: Enum) -> str:
    """A state diagram of one table."""
    lines = ["stateDiagram-v2", f"    [*] --> {first.name}"]
    for state, steps in table.items():
        lines += [f"    {state.name} --> {after.name}: {step.value}" for step, after in steps.items()]
        if not steps:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join(lines)


DIAGRAMS: Final = {"processes": mermaid(TRANSITIONS, State.STARTING), "reload": mermaid(PHASES, Phase.GATE)}


def renewed(text: str) -> str:
    """The text with each marked diagram as the tables have it by now."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}```mermaid\n{DIAGRAMS[found[2]]}\n```\n{found[3]}"

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text()))
