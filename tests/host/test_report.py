"""Issue reports in a real host: complete, and free of paths and a person's words."""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace

from tests.host.pack import pack_module


def test_report_is_complete_and_private(comfy: ModuleType) -> None:
    report = pack_module("nodes.host.report")
    train = pack_module("sidestep_core.training.config").TrainConfig(
        max_steps=7, preview_caption="my secret song", optimizer="prodigy")
    lora = pack_module("sidestep_core.adapters.lora").LoraConfig(rank=8)
    checkpoint = SimpleNamespace(variant="turbo", size="2B", name="/home/me/private.safetensors")
    text = report.issue_report(checkpoint, lora, train)
    facts = dict(line.split(": ", 1) for line in text.splitlines())
    assert facts["Settings"] == "max_steps=7 optimizer=prodigy"
    assert facts["Adapter"] == "lora rank=8"
    assert facts["Model"] == "turbo 2B"
    assert all(facts[name][0].isdigit() for name in ("Side-Step", "ComfyUI", "Python", "torch", "peft"))
    assert "GB" in facts["Device"]
    assert not [word for word in ("secret", "private", "/home") if word in json.dumps(facts)]
