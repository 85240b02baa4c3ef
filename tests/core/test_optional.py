"""A package that fails to import is named, with the command to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep_core import optional
from sidestep_core.errors import MissingDependency

ROOT = Path(__file__).parents[2]
TRAIN = """
import torch
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.errors import MissingDependency
from sidestep_core.training.optim import optimizers
registry.require(LoraConfig())
try:
    optimizers.require("adamw8bit")
except MissingDependency as error:
    print(error)
"""


def package(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source, encoding="utf-8")


def load(name: str) -> None:
    with optional.imports("wanted_one", "Testing"):
        __import__(name)


@pytest.mark.parametrize("raised", ["OSError('no DLL')", "RuntimeError('no CUDA')", "AttributeError('_lib')",
                                    "ImportError('no symbol')", "KeyError('x')"])
def test_broken_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{abs(hash(raised))}"
    package(tmp_path, name, f"raise {raised}")
    package(tmp_path, f"user_of_{name}", f"import {name}")
    with pytest.raises(MissingDependency, match=f"imports {name}, which raised: .*--upgrade {name}, with"):
        load(f"user_of_{name}")


def test_missing_name_updates_both_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either of the two may be too old."""
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "given_one", "")
    package(tmp_path, "asking_one", "from given_one import NewName")
    with pytest.raises(MissingDependency, match="imports given_one, which raised: cannot import name 'NewName'.*"
                                                "--upgrade asking_one given_one, with"):
        load("asking_one")


@pytest.mark.parametrize(("name", "line"), [
    ("sklearn", "--upgrade scikit-learn, with"), ("google", "--upgrade protobuf, with"),
    ("torchaudio", "--upgrade torch torchvision torchaudio, with .* index that ComfyUI's README names")])
def test_command_has_the_pip_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
                                          line: str) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    package(tmp_path, name, "raise OSError('undefined symbol')")
    with pytest.raises(MissingDependency, match=f"imports {name}, which raised: undefined symbol. Run: .*{line}"):
        load(name)
    sys.modules.pop(name, None)


def test_missing_package_is_named() -> None:
    with pytest.raises(MissingDependency, match="package wanted_one, and that imports no_such_package, which"):
        load("no_such_package")


def test_errors_of_the_work_itself_pass() -> None:
    def work() -> None:
        with optional.imports("wanted_one", "Testing"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_broken_bitsandbytes_is_named_before_training(tmp_path: Path) -> None:
    package(tmp_path, "bitsandbytes", "raise OSError('[WinError 126] The specified module could not be found')")
    facts = tmp_path / "bitsandbytes-0.43.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.43.0\n", encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", TRAIN], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "The optimizer adamw8bit needs the package bitsandbytes, which raised: [WinError 126]" in done.stdout
    assert "python -m pip install --upgrade bitsandbytes" in done.stdout
