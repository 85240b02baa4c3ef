"""Registry archive: all that a user needs, nothing else, with metadata that ComfyUI's own parser reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pathspec
import pytest

from demo.server import ComfyUI
from demo.setup import PACK

PARTS = {"__init__.py", "first_copy.py", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "docs",
         "example_workflows", "locales", "nodes", "pyproject.toml", "requirements.txt", "sidestep_cli", "sidestep_core",
         "subgraphs", "web"}
WHOLE = ("docs", "example_workflows", "locales", "nodes", "sidestep_cli", "sidestep_core", "subgraphs", "web")
"""Folders of which every file is published."""


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files of the repository, as the registry's tool lists them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACK, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name]


@pytest.fixture(scope="module")
def published(tracked: list[str]) -> list[str]:
    """The files without those that .comfyignore names."""
    lines = (PACK / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = pathspec.GitIgnoreSpec.from_lines(lines)
    return [name for name in tracked if not left_out.match_file(name)]


def test_archive_holds_what_users_need(tracked: list[str], published: list[str]) -> None:
    assert {name.partition("/")[0] for name in published} == PARTS
    for folder in WHOLE:
        assert [name for name in tracked if name.startswith(f"{folder}/")] == \
               [name for name in published if name.startswith(f"{folder}/")]


def test_archive_loads_all_nodes(published: list[str], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    for name in published:
        target = pack / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACK / name, target)
    with ComfyUI(Path(os.environ["COMFYUI_PATH"]), tmp_path / "base", pack=pack, extra_args=("--cpu",)) as server:
        found = {name for name in server.get_json("/object_info") if name.startswith("SideStep")}
        templates = server.get_json("/workflow_templates")["comfyui-side-step"]
        blueprints = {each["name"] for each in server.get_json("/global_subgraphs").values()}
    assert found == {path.stem for path in (PACK / "web" / "docs").glob("*.md")}
    assert sorted(templates) == sorted(path.stem for path in (PACK / "example_workflows").glob("*.json"))
    assert {path.stem for path in (PACK / "subgraphs").glob("*.json")} <= blueprints


def test_comfyui_reads_the_metadata(comfy: ModuleType) -> None:
    from comfy_config.config_parser import extract_node_configuration

    found = extract_node_configuration(str(PACK))
    project, registry = found.project, found.tool_comfy
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", project.name)
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert project.description
    assert project.license.text == "Apache-2.0"
    assert project.supported_os == ["OS Independent"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", project.supported_comfyui_version)
    assert (registry.publisher_id, registry.display_name) == ("side-step", "Side-Step")
    assert project.urls.repository.startswith("https://")
    assert registry.icon.startswith("https://")
    assert (PACK / registry.icon.rpartition("/")[2]).is_file()
    needed = (PACK / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert project.dependencies == [line for line in needed if not line.startswith("#")]
