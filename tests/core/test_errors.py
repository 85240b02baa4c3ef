"""Messages of errors."""

from __future__ import annotations

from sidestep_core.errors import DatasetError


def test_undecodable_name_is_loggable() -> None:
    """Writing it to ComfyUI's log would fail, and block the host for good."""
    assert str(DatasetError("There is no folder /music/\udcff\ud800.")) == "There is no folder /music/\\udcff\\ud800."
    assert str(DatasetError("\u0401 \U0001f3b5")) == "\u0401 \U0001f3b5"
