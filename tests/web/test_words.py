"""Texts of the page: all of them go through t() or plural(), and every language has exactly these."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.page_texts import WEB, Literal, literals, scripts

ROOT = WEB.parent
LONGEST_NAME = 9
"""Letters of a text that a language may have as English has it, such as Position."""
LANGUAGES = ("es", "fr", "ja", "zh")
FORMS = {"es": {"one", "other"}, "fr": {"one", "other"}, "ja": {"other"}, "zh": {"other"}}
PLACEHOLDER = re.compile(r"\{(\w+)\}")
WORDS = re.compile(r"[A-Za-z]{2,}[.,:;]? [a-z]{2,}|^[A-Z][a-z]+\b(?!/)|[a-z]{3}[.:!?]$")
"""What people read: two words, a word with a capital, or the end of a sentence."""
CHILDREN = 2
"""Number of the first argument of make() that is shown."""
CODE = re.compile(r"(sidestep|pi )[\w .-]*|[A-Z][a-z]+[A-Z].*")
"""Names of classes, nodes and keys."""
NOT_READ = {"use max_steps", "Files", "Escape", "Enter", "Home", "End", "Content-Type", "Comfy-User", "Comfy.Locale",
            "input:", "24px Inter, system-ui, sans-serif", "Side-Step", "Side-Step: ", " sidestep-wide sidestep-",
            "Side-Step has no texts in this language: "}
"""Values, keys of a keyboard and of requests, and a message for the browser's log."""
MENU = ("Show songs", "Show runs", "Listen", "Train on my songs")
"""Commands, which ComfyUI translates, from locales/."""

Text = str | dict[str, str]


def is_key(literal: Literal) -> bool:
    return (literal.call, literal.argument) in (("t", 0), ("plural", 2))


def is_translated(literal: Literal) -> bool:
    return is_key(literal) or (literal.call, literal.argument) == ("plural", 1)


@cache
def everything() -> tuple[Literal, ...]:
    return tuple(literal for script in scripts() for literal in literals(
        script.read_text(encoding="utf-8"), script.relative_to(WEB).as_posix()))


def of_the_server() -> Iterator[str]:
    """Texts of the sentences that the server makes."""
    for folder in ("nodes", "sidestep_core"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Sentence":
                    yield ast.literal_eval(node.args[0])


@cache
def english() -> frozenset[str]:
    return frozenset(literal.text for literal in everything() if is_key(literal)) | set(of_the_server())


def is_left_out(literal: Literal) -> bool:
    """True for a text for people that is not translated."""
    text = literal.text
    child = literal.call == "make" and literal.argument >= CHILDREN and re.search(r"[A-Za-z]{2}", text)
    return bool(child or WORDS.search(text)) and not (
        is_translated(literal) or CODE.fullmatch(text) or text in NOT_READ or text.removeprefix("Side-Step: ") in MENU)


def left_out(source: str) -> list[Literal]:
    return [literal for literal in literals(source) if is_left_out(literal)]


def translated(language: str) -> dict[str, Text]:
    return dict(json.loads((WEB / "words" / f"{language}.json").read_text(encoding="utf-8")))


def forms(text: Text) -> list[str]:
    return list(text.values()) if isinstance(text, dict) else [text]


def test_all_texts_are_translated() -> None:
    assert [literal for literal in everything() if is_left_out(literal)] == []


@pytest.mark.parametrize("source", [
    'const title = "Save now";', 'make("span", "", "before")', 'make("p", "", "No songs yet.")',
    "say(`${name} is saved.`)", 'say("Saved")', 't(text, "Save now")', 'const help = "It is " + "saved now.";'])
def test_untranslated_text_is_found(source: str) -> None:
    assert len(left_out(source)) == 1


@pytest.mark.parametrize("source", [
    'title = t("Save now");', 't("It is " + "saved.")', 'plural(n, "{n} song", "{n} songs")', "// A comment of words\n",
    'make("div", "sidestep-panel sidestep-songs");', "text.replace(/[\"a b]/g, `${x}`)",
    'createNode("SideStepTrainAdapter")'])
def test_other_literals_pass(source: str) -> None:
    assert left_out(source) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_have_all_texts(language: str) -> None:
    assert sorted(english() - translated(language).keys()) == []
    assert sorted(translated(language).keys() - english()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_plurals_have_their_forms(language: str) -> None:
    with_number = {literal.text for literal in everything() if literal.call == "plural" and literal.argument == 2}
    for key, text in translated(language).items():
        assert isinstance(text, dict) == (key in with_number), key
        assert isinstance(text, str) or set(text) == FORMS[language], key


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_are_kept(language: str) -> None:
    for key, text in translated(language).items():
        for form in forms(text):
            assert sorted(PLACEHOLDER.findall(form)) == sorted(PLACEHOLDER.findall(key)), form
            assert form.strip() == form != ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_differ_from_english(language: str) -> None:
    same = [key for key, text in translated(language).items() if key in forms(text)]
    assert [key for key in same if len(PLACEHOLDER.sub("", key)) > LONGEST_NAME] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_menu_is_translated(language: str) -> None:
    folder = ROOT / "locales" / language
    menu = json.loads((folder / "main.json").read_text(encoding="utf-8"))["menuLabels"]
    assert tuple(menu) == MENU
    labels = json.loads((folder / "commands.json").read_text(encoding="utf-8")).values()
    assert {label["label"] for label in labels} == {f"Side-Step: {text}" for text in menu.values()}


def test_texts_wait_for_their_language() -> None:
    """A text outside of a function is made before ComfyUI has said which language it is to be in."""
    early = re.compile(r"^(?:export )?const \w+ = (?:t|plural)\(|^  \w+: (?:t|plural)\(|^  \[[^=>]*\bt\(", re.MULTILINE)
    for script in scripts():
        for statement in re.split(r"\n(?=\S)", script.read_text(encoding="utf-8")):
            if re.match(r"(?:export )?const \w+ = (?![^\n]*=>)", statement):
                assert not early.search(statement), f"{script.name}: {statement[:80]}"
