"""Messages of errors."""

from __future__ import annotations

from sidestep_core.errors import DatasetError


def test_a_name_that_is_no_text_can_be_logged() -> None:
    """Writing it would fail in ComfyUI's log, and its queue would stand still for good."""
    assert str(DatasetError("There is no folder /music/\udcff\ud800.")) == "There is no folder /music/\\udcff\\ud800."
    assert str(DatasetError("\u0401 \U0001f3b5")) == "\u0401 \U0001f3b5"
