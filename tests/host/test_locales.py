"""Translations of the nodes: whole, and of texts that exist."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI

LOCALES = Path(__file__).parent.parent.parent / "locales"
LANGUAGES = ("es", "fr", "ja", "zh")
NUMBER_OR_NAME = re.compile(r"\d+(?:\.\d+)?|\b[a-z]+(?:_[a-z0-9]+)+\b")
"""Words that every language writes alike: numbers, and names of settings."""


def english(server: ComfyUI) -> dict[str, Any]:
    """Texts of the nodes, in the form of a translation.

    Names of settings such as max_steps stay: presets, files and the documents have them too.
    """
    texts = {}
    for node, facts in server.get_json("/object_info").items():
        if node.startswith("SideStep"):
            inputs = {name: {"name": "" if "_" in name else name, "tooltip": options.get("tooltip")}
                      for part in ("required", "optional")
                      for name, (_, options) in facts["input"].get(part, {}).items()}
            outputs = {str(number): {"name": name, "tooltip": tooltip} for number, (name, tooltip) in enumerate(zip(
                facts["output_name"], facts["output_tooltips"] or itertools.repeat(None), strict=False))}
            texts[node] = {"display_name": facts["display_name"], "description": facts["description"],
                           "inputs": inputs, "outputs": outputs}
    return texts


def translated(language: str) -> dict[str, Any]:
    return dict(json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")))


def flat(texts: dict[str, Any], path: str = "") -> dict[str, str]:
    """Every text by its place; empty ones left out."""
    found = {}
    for name, value in texts.items():
        if isinstance(value, dict):
            found |= flat(value, f"{path}/{name}")
        elif value:
            found[f"{path}/{name}"] = value
    return found


def test_languages_are_complete() -> None:
    assert tuple(sorted(path.name for path in LOCALES.iterdir())) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_translation_covers_all_nodes(server: ComfyUI, language: str) -> None:
    texts, own = flat(english(server)), flat(translated(language))
    assert sorted(own) == sorted(texts)
    tooltips = [place for place in texts if place.endswith("/tooltip")]
    assert len(tooltips) > 150
    assert [place for place in tooltips if own[place] == texts[place]] == []
    for place in tooltips:
        missing = set(NUMBER_OR_NAME.findall(texts[place])) - set(NUMBER_OR_NAME.findall(own[place]))
        assert not missing, f"{place}: {missing} are not in the translation"


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_gets_translation(server: ComfyUI, language: str) -> None:
    served = server.get_json("/i18n")[language]
    assert served["nodeDefs"]["SideStepTrainAdapter"] == translated(language)["SideStepTrainAdapter"]
    assert len(served["commands"]) == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_plain_messages(language: str) -> None:
    """The page would read these signs as placeholders."""
    assert [place for place, text in flat(translated(language)).items() if set(text) & set("{}|@")] == []
