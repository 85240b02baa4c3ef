"""Two processes, one folder: the second one names the first, and touches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep_core.dataset import maintenance
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import InUse
from sidestep_core.io import atomic, locks, strict_json
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.training import metrics, run_checkpoint
from tests.tiny import write_dataset
from tests.training import CONFIG, trained

ROOT = Path(__file__).parents[3]
HOLD = """
    import sys
    from pathlib import Path
    from sidestep_core.io import locks
    with locks.held(Path(sys.argv[1]), "trained"):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "TIMEOUT_SECONDS", 0.0)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Start another process that locks the folder until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLD), str(folder)], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_other_process_is_named(tmp_path: Path) -> None:
    process = holder(tmp_path / "my_run")
    message = rf"my_run is being trained by another program, process {process.pid} since \d{{4}}-"
    with pytest.raises(InUse, match=message), locks.held(tmp_path / "my_run", "trained"):
        pass
    process.communicate()
    with locks.held(tmp_path / "my_run", "trained"):
        pass


def test_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.wait()
    with locks.held(tmp_path, "trained"):
        assert strict_json.read(tmp_path / ".lock.json")["process"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


def test_silent_holder_is_respected(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    for damaged in ("", "[", "[1]", "{}"):
        (tmp_path / "run" / ".lock.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(InUse, match="run is being .* by another program"), locks.held(tmp_path / "run", "trained"):
            pass
    process.communicate()


def test_run_in_use_is_refused_untouched(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", checkpoint, (40, 50, 60))
    seen: list[str] = []

    def second(progress: Progress) -> None:
        if progress.step == 2 and not seen:
            before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
            with pytest.raises(InUse) as refused:
                trained(checkpoint, dataset, tmp_path)
            seen.append(str(refused.value))
            assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before

    adapter = trained(checkpoint, dataset, tmp_path, config=replace(CONFIG, max_steps=3), report=second)
    assert f"process {os.getpid()}" in seen[0]
    rows = [row["step"] for row in metrics.read(tmp_path / "run" / metrics.FILE) if "loss" in row]
    assert rows == [1, 2, 3]
    assert run_checkpoint.finished(tmp_path / "run") == adapter


def test_dataset_in_use_is_not_cleaned(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset: Dataset = write_dataset(tmp_path / "dataset", checkpoint, (40, 50, 60))
    process = holder(dataset.folder)
    with pytest.raises(InUse, match="dataset is being trained by another program"):
        maintenance.clean(dataset.folder)
    process.communicate()
    maintenance.clean(dataset.folder)


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.parametrize("drive", [lambda _: None, no_links], ids=["links", "no links"])
def test_name_is_taken_once(drive: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch,
                              tmp_path: Path) -> None:
    """Another process takes the name while the file is being written."""
    drive(monkeypatch)
    target = tmp_path / "a.safetensors"

    def write(temporary: Path) -> None:
        target.write_bytes(b"theirs")
        temporary.write_bytes(b"ours")

    assert not atomic.write_new(target, write)
    assert not atomic.write_new(target, write)
    assert atomic.write_new(tmp_path / "b.safetensors", lambda temporary: temporary.write_bytes(b"ours"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.safetensors": b"theirs", "b.safetensors": b"ours"}


def test_held_lock_is_seen(tmp_path: Path) -> None:
    assert not locks.is_held(tmp_path)
    with locks.held(tmp_path, "trained"):
        assert locks.is_held(tmp_path)
    assert not locks.is_held(tmp_path)
    (tmp_path / ".lock").touch()  # left by a process that was killed
    assert not locks.is_held(tmp_path)
    assert not locks.is_held(tmp_path / "missing")
