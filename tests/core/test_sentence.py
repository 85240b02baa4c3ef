"""Sentences are English texts that remember their parts, for pages in other languages."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pytest

from sidestep_core.sentence import Sentence


@pytest.mark.parametrize(("sentence", "english"), [
    (Sentence("Step {step} of {total}.", step=1200, total=2000), "Step 1,200 of 2,000."),
    (Sentence("{size} GB", size=0.6), "0.6 GB"), (Sentence("{crop} s", crop=60.0), "60 s"),
    (Sentence("{n} songs", one="{n} song", n=1), "1 song"), (Sentence("{n} songs", one="{n} song", n=0), "0 songs"),
    (Sentence("{name} is saved.", name="{odd} name"), "{odd} name is saved."),
    (Sentence("{songs}: {why}", songs=Sentence("{n} songs", n=2), why=Sentence("few.")), "2 songs: few.")])
def test_sentence_is_english_text(sentence: Sentence, english: str) -> None:
    assert sentence == english
    assert json.loads(json.dumps(sentence)) == english


def test_parts_are_remembered() -> None:
    sentence = Sentence("{songs}, rank {rank}", songs=Sentence("{n} songs", one="{n} song", n=2), rank=8)
    assert sentence.to_json() == {
        "text": "{songs}, rank {rank}", "one": "",
        "values": {"songs": {"text": "{n} songs", "one": "{n} song", "values": {"n": 2}}, "rank": 8}}


def test_copy_keeps_the_parts() -> None:
    @dataclass
    class Holder:
        reason: Sentence

    copied = asdict(Holder(Sentence("rank {rank}", rank=8)))["reason"]
    assert copied.to_json() == Sentence("rank {rank}", rank=8).to_json()


def test_missing_value_is_refused() -> None:
    with pytest.raises(KeyError, match="step"):
        Sentence("Step {step}.")


def test_sentences_are_joined() -> None:
    saved, plain = Sentence("{file} is saved.", file="a"), "Warm-up takes 1 step."
    assert Sentence.joined(["", ""]) == ""
    assert Sentence.joined(["", saved]) is saved
    joined = Sentence.joined([saved, plain])
    assert joined == "a is saved. Warm-up takes 1 step."
    assert isinstance(joined, Sentence)
    assert joined.values == {"part_0": saved, "part_1": plain}
