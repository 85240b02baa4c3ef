"""A signal that ends ComfyUI while it trains costs no finished step."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI, Prompt, ServerError
from sidestep_core.training import metrics
from tests.host.test_pipeline import SECONDS, ran, upstream, with_inputs
from tests.running import demo_comfyui

SENT_AFTER = 5


@contextlib.contextmanager
def heeding_ctrl_c() -> Iterator[None]:
    """Processes that are started inside heed SIGINT, which they do not where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_by(sent: signal.Signals, prompt: Prompt, base: Path) -> tuple[int, int, str]:
    """Send a server the signal some steps after the first that it reports: its exit code, that step, its last lines."""
    steps: list[int] = []
    with heeding_ctrl_c(), demo_comfyui(base) as server:
        def listen(event: tuple[str, dict[str, Any]]) -> None:
            kind, data = event
            if kind == "sidestep.progress" and data["metrics"].get("loss") is not None:
                steps.append(data["step"])
                if len(steps) > 1 and steps[-2] < steps[0] + SENT_AFTER <= steps[-1]:
                    server.process.send_signal(sent)

        with pytest.raises(ServerError, match="died"):
            server.wait(server.submit(prompt), 580, listen)
        return server.process.wait(), steps[0], server.tail()


def test_signals_keep_the_last_step(server: ComfyUI, prompt: Prompt, tmp_path: Path) -> None:
    encoding = {"SideStepPreprocessAudioFolder": {"max_seconds": SECONDS, "dataset_name": "demo"}}
    ran(server, upstream(with_inputs(prompt, encoding), "SideStepPreprocessAudioFolder"))
    datasets = Path("output", "sidestep", "datasets")
    shutil.copytree(server.base / datasets, tmp_path / datasets)  # both servers find the songs encoded
    training = upstream(with_inputs(prompt, encoding | {
        "SideStepTrainAdapter": {"max_steps": 100_000, "adapter_name": "ended"},
        "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 100_000, "save_every": 100_000},
    }), "SideStepTrainAdapter")
    last = 0
    for sent, expected in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)):
        exit_code, first, log = end_by(sent, training, tmp_path)
        assert exit_code == expected, log
        assert first > last, "it began anew"
        [run] = (tmp_path / "output" / "sidestep" / "runs").iterdir()
        rows = [row["step"] for row in metrics.read(run / metrics.FILE) if "loss" in row]
        last = rows[-1]
        assert rows == list(range(1, last + 1))
        assert (run / f"checkpoint-step-{last}").is_dir()
        assert (tmp_path / "models" / "loras" / f"ended-step-{last}.safetensors").is_file()
        assert list(run.glob(".*")) == []
