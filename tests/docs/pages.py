"""Reads the project's Markdown: pages, their fenced blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FOREIGN = {"node_modules", "build", "dist"}


class Block(NamedTuple):
    """A fenced block: the page and line where it begins, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that the first line of the block claims to be; empty when it names none."""
        matched = re.match(r"# ([\w./-]+\.py)\n", self.text)
        return matched[1] if matched else ""


def pages() -> list[Path]:
    """Every Markdown page of the project."""
    found = ROOT.rglob("*.md")
    return sorted(page for page in found if not any(_hidden(part) for part in page.relative_to(ROOT).parts))


def _hidden(part: str) -> bool:
    return part.startswith(".") or part in _FOREIGN


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in these languages."""
    return [block for page in pages() for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    language, start, lines = None, 0, list[str]()
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line[3:].strip(), number, []
        else:
            yield Block(page, start, language, "\n".join(lines) + "\n")
            language = None
    assert language is None, f"{page}:{start}: the block does not end"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, its own heading and rule left out."""
    section = prose(page).partition(f"# {heading}\n")[2]
    assert section, f"{page} has no heading {heading!r}"
    rows = list[str]()
    for line in section.splitlines():
        if line.startswith("|"):
            rows.append(line)
        elif rows:
            break
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, as GitHub and its like spell them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """The targets of the page's links that are not addresses of the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
