"""Everything a user reads on a node: complete in the classes, the same in the locale files, and with a help page of its own in each language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graft.nodes.registry import NODE_CLASS_MAPPINGS
from graft.nodes.words import CHINESE, ENGLISH, LANGUAGES, ROOT, english_words, with_tables

HINT = "run `python -m graft.nodes.words`, and add what is new to locales/zh"
CORE_TYPES = {"MODEL", "CLIP", "VAE", "IMAGE", "MASK", "LATENT", "CONDITIONING", "CONTROL_NET", "LORA_MODEL", "LOSS_MAP"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN"}
SECTIONS = {"en": ("When to use it", "Example", "What goes wrong"), "zh": ("何时使用", "示例", "常见问题")}
CHINESE_CHARACTER = re.compile(r"[\u4e00-\u9fff]")
MESSAGE_SYNTAX = re.compile(r"[{}|@]")
"""Characters that vue-i18n, with which ComfyUI's page shows these texts, reads as commands."""

each_node = pytest.mark.parametrize("node_id", sorted(NODE_CLASS_MAPPINGS))
each_language = pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.code)


def inputs_of(node_id: str) -> dict[str, Any]:
    declared = NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES()  # type: ignore[attr-defined]
    return {**declared.get("required", {}), **declared.get("optional", {})}


def texts(words: Any) -> Iterator[str]:
    if isinstance(words, str):
        yield words
    else:
        for entry in words.values():
            yield from texts(entry)


def keys(words: Any) -> Any:
    """The same nested tables, and their order, without the texts."""
    return [(key, keys(entry)) for key, entry in words.items()] if isinstance(words, dict) else None


# ---------------------------------------------------------------- the classes


@each_node
def test_every_text_is_a_sentence(node_id: str):
    node: Any = NODE_CLASS_MAPPINGS[node_id]
    tooltips = [entry[1].get("tooltip", "") for entry in inputs_of(node_id).values()]
    for text in (*tooltips, *node.OUTPUT_TOOLTIPS, node.DESCRIPTION):
        assert re.fullmatch(r"\S.{8,}[.)]", text, re.DOTALL) and "  " not in text, text
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
    assert len(node.DESCRIPTION) > 60


@each_node
def test_a_search_finds_it(node_id: str):
    aliases = NODE_CLASS_MAPPINGS[node_id].SEARCH_ALIASES  # type: ignore[attr-defined]
    assert isinstance(aliases, tuple) and len(aliases) > 1 and len(set(aliases)) == len(aliases)
    assert all(alias == alias.lower().strip() and alias for alias in aliases)


@each_node
def test_every_widget_has_a_default_within_a_range(node_id: str):
    for name, (kind, options) in inputs_of(node_id).items():
        if kind in ("INT", "FLOAT"):
            numbers = [options["min"], options["default"], options["max"], options.get("step", 1)]
            assert numbers[0] <= numbers[1] <= numbers[2] and 0 < numbers[3] <= numbers[2] - numbers[0], name
            assert kind == "FLOAT" or all(isinstance(number, int) for number in numbers), name
        elif isinstance(kind, list):
            assert not kind or options.get("default", kind[0]) in kind, name
        elif kind in WIDGETS:
            assert isinstance(options["default"], {"STRING": str, "BOOLEAN": bool}[kind]), name


@each_node
def test_types_connect_only_where_they_fit(node_id: str):
    """Core types by their own names, ours under our own prefix; none that takes everything."""
    kinds = [entry[0] for entry in inputs_of(node_id).values()] + list(NODE_CLASS_MAPPINGS[node_id].RETURN_TYPES)  # type: ignore[attr-defined]
    for kind in kinds:
        assert isinstance(kind, list) or kind in WIDGETS | CORE_TYPES or kind.startswith("GRAFT_"), kind


# ---------------------------------------------------------------- locales


def test_english_says_what_the_classes_say():
    assert ENGLISH.words() == english_words(NODE_CLASS_MAPPINGS), HINT


def test_chinese_has_exactly_the_keys_of_english():
    assert keys(CHINESE.words()) == keys(ENGLISH.words()), HINT


def test_chinese_is_chinese():
    for node_id, words in CHINESE.words().items():
        tooltips = [entry["tooltip"] for group in ("inputs", "outputs") for entry in words[group].values()]
        for text in (words["description"], *tooltips):
            assert CHINESE_CHARACTER.search(text) and text.endswith(("。", "）")), f"{node_id}: {text}"


@each_language
def test_no_text_holds_what_the_page_would_take_for_a_command(language: Any):
    assert [text for text in texts(language.words()) if MESSAGE_SYNTAX.search(text)] == []


@each_language
def test_names_tell_inputs_and_nodes_apart(language: Any):
    names = [words["display_name"] for words in language.words().values()]
    assert len(set(names)) == len(names)
    for node_id, words in language.words().items():
        shown = [entry["name"] for entry in words["inputs"].values()]
        assert len(set(shown)) == len(shown), node_id


# ---------------------------------------------------------------- help pages


@each_node
@each_language
def test_the_help_page_is_there_and_whole(language: Any, node_id: str):
    page, words = language.help_page(node_id).read_text(encoding="utf-8"), language.words()[node_id]
    assert page.startswith(f"# {words['display_name']}\n")
    assert with_tables(page, words, language) == page, HINT
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert tuple(sections)[:3] == SECTIONS[language.code]
    assert all(len(text.strip()) > 30 for text in sections.values())
    assert sections[SECTIONS[language.code][2]].count("\n| ") >= 3  # a head and two troubles at least


@each_language
def test_messages_that_a_help_page_quotes_are_really_said(language: Any):
    """What a user sees, in quotation marks in the left column, stands in the source, piece by piece."""
    source = "\n".join(path.read_text(encoding="utf-8") for folder in ("nodes", "training") for path in (ROOT / folder).rglob("*.py"))
    for node_id in NODE_CLASS_MAPPINGS:
        for seen in re.findall(r"^\| (.*?) \| ", language.help_page(node_id).read_text(encoding="utf-8"), re.MULTILINE):
            for quoted in re.findall(r'["“]([ !#-~]+)["”]', seen):
                pieces = (piece.strip(" :;") for piece in re.split(r"\.\.\.|: |\b(?:expected|found)\b", quoted))
                assert [piece for piece in pieces if piece not in source] == [], f"{node_id}: {quoted}"


@each_language
def test_widgets_that_a_help_page_names_exist(language: Any):
    """Names in code marks that look like inputs are inputs of some node, or values of one."""
    known = {name for node_id in NODE_CLASS_MAPPINGS for name in inputs_of(node_id)}
    known |= {name for node in NODE_CLASS_MAPPINGS.values() for name in node.RETURN_NAMES}  # type: ignore[attr-defined]
    values = [entry[0] for id in NODE_CLASS_MAPPINGS for entry in inputs_of(id).values() if isinstance(entry[0], list)]
    known |= {value for choices in values for value in choices}
    for node_id in NODE_CLASS_MAPPINGS:
        written = language.help_page(node_id).read_text(encoding="utf-8").partition(f"\n## {language.inputs}\n")[0]
        named = re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", written)
        assert set(named) - known <= NOT_INPUTS, node_id


NOT_INPUTS = {"graft_shapes", "training_pictures", "my_canny", "my_canny_report", "my_style", "conditioning_image"}
"""Names of files, folders and columns in the examples."""


def test_there_is_no_page_of_a_node_that_does_not_exist():
    folder = ROOT / "web" / "docs"
    assert {path.stem for path in folder.glob("*.md")} == set(NODE_CLASS_MAPPINGS)
    assert {path.parent.name for path in folder.glob("*/*.md")} == set(NODE_CLASS_MAPPINGS)
    assert {path.name for path in folder.glob("*/*.md")} == {"zh.md"}


# ---------------------------------------------------------------- where ComfyUI looks


def test_comfyui_finds_locales_and_help_where_they_lie():
    """app/custom_node_manager.py reads custom_nodes/*/locales/<language>/nodeDefs.json, the page /extensions/<folder>/docs/."""
    import graft

    assert (Path(graft.__file__).parent / graft.WEB_DIRECTORY / "docs").resolve() == (ROOT / "web" / "docs").resolve()
    for language in LANGUAGES:
        assert json.loads((ROOT / "locales" / language.code / "nodeDefs.json").read_text(encoding="utf-8"))
