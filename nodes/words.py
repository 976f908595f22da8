"""What our nodes say of themselves, as ComfyUI's page reads it: locales/<language>/nodeDefs.json and the tables of the help pages.

English is made of the classes and never edited by hand; nor are the tables at the end of the help pages, which follow the locale files:

    python -m graft.nodes.words

Other languages have exactly English's keys (tests/nodes/test_words.py); an input's name is what people read on the node, its key stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.files.write import write_bytes, write_json

ROOT = Path(__file__).parents[1]
Words = Mapping[str, Any]


@dataclass(frozen=True)
class Language:
    """One language that ComfyUI's page can be set to, and the words around the tables of its help pages."""

    code: str
    inputs: str
    outputs: str
    name: str
    meaning: str

    @property
    def locale_file(self) -> Path:
        return ROOT / "locales" / self.code / "nodeDefs.json"

    def help_page(self, node_id: str) -> Path:
        """Where the page looks first; English is what it falls back to."""
        folder = ROOT / "web" / "docs"
        return folder / f"{node_id}.md" if self is ENGLISH else folder / node_id / f"{self.code}.md"

    def words(self) -> Words:
        """The table of the locale file."""
        return json.loads(self.locale_file.read_text(encoding="utf-8"))


ENGLISH = Language("en", "Inputs", "Outputs", "name", "meaning")
CHINESE = Language("zh", "输入", "输出", "名称", "说明")
LANGUAGES = (ENGLISH, CHINESE)


def english_words(nodes: Mapping[str, type]) -> dict[str, Any]:
    """The table of all nodes by id: display name, description, inputs by name and outputs by position, each with name and tooltip."""
    return {id: _node_words(node) for id, node in nodes.items()}


def _node_words(node: Any) -> dict[str, Any]:
    declared = node.INPUT_TYPES()
    inputs = {**declared.get("required", {}), **declared.get("optional", {})}
    outputs = zip(node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True)
    return {
        "display_name": node.DISPLAY_NAME,
        "description": node.DESCRIPTION,
        "inputs": {name: {"name": name, "tooltip": entry[1]["tooltip"]} for name, entry in inputs.items()},
        "outputs": {str(position): {"name": name, "tooltip": tooltip} for position, (name, tooltip) in enumerate(outputs)},
    }


def with_tables(page: str, words: Words, language: Language) -> str:
    """A help page as a person wrote it, followed by the tables of the node's inputs and outputs."""
    written = page.partition(f"\n## {language.inputs}\n")[0].partition(f"\n## {language.outputs}\n")[0].rstrip()
    titles = ((language.inputs, words["inputs"]), (language.outputs, words["outputs"]))
    return "\n\n".join([written, *(_table(title, entries, language) for title, entries in titles if entries)]) + "\n"


def _table(title: str, entries: Words, language: Language) -> str:
    rows = [f"| {_shown(key, entry['name'])} | {entry['tooltip']} |" for key, entry in entries.items()]
    return "\n".join([f"## {title}", "", f"| {language.name} | {language.meaning} |", "|---|---|", *rows])


def _shown(key: str, name: str) -> str:
    """The name on the node, and the one that workflows and the command line know if it is another; outputs have numbers for keys."""
    return f"`{name}`" if key.isdigit() or key == name else f"{name} (`{key}`)"


def refresh() -> None:
    """Writes English's locale file and the tables of all help pages that are there."""
    from .registry import NODE_CLASS_MAPPINGS

    write_json(ENGLISH.locale_file, english_words(NODE_CLASS_MAPPINGS))
    for language in LANGUAGES:
        for node_id, words in language.words().items():
            page = language.help_page(node_id)
            if page.is_file():
                write_bytes(page, with_tables(page.read_text(encoding="utf-8"), words, language).encode("utf-8"))


if __name__ == "__main__":
    refresh()
