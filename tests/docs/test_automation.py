"""Workflows, forms and hooks in YAML: what they name exists, and versions agree with the pins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import run

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [ROOT / ".github" / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]
SECRET = "${{ secrets.REGISTRY_ACCESS_TOKEN }}"


def read(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(workflow)["jobs"]
    return found


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow).values() for step in job.get("steps", [])]


def unknown_commands(text: str) -> Iterator[str]:
    """Commands of `run.py` that it does not have, and files that a command names and that do not exist."""
    for command in re.findall(r"python run\.py (\S+)", text):
        if command not in run.parser().format_usage():
            yield command
    for file in re.findall(r"open\('([^']+)'", text):
        if not (ROOT / file).is_file():
            yield file


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_exist(workflow: Path) -> None:
    assert list(unknown_commands(" ".join(step.get("run", "") for step in steps(workflow)))) == []
    called = [job["uses"] for job in jobs(workflow).values() if job.get("uses", "").startswith("./")]
    assert [name for name in called if not (ROOT / name).is_file()] == []


def test_unknown_command_is_found() -> None:
    assert list(unknown_commands("python run.py fly\npython -c \"open('no.toml')\"")) == ["fly", "no.toml"]


def test_systems_and_pythons_are_tested() -> None:
    matrix = jobs(ROOT / ".github" / "workflows" / "test.yml")["test"]["strategy"]["matrix"]["include"]
    assert {entry["os"].partition("-")[0] for entry in matrix} == {"ubuntu", "windows", "macos"}
    pythons = {entry["python"] for entry in matrix if entry["os"].startswith("ubuntu")}
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert oldest.removeprefix(">=") in pythons
    assert len(pythons) == 2


def test_publishing_needs_tests_and_a_tag() -> None:
    workflow = ROOT / ".github" / "workflows" / "publish.yml"
    publish = jobs(workflow)["publish"]
    assert read(workflow)[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    assert publish["needs"] == "test"
    action = publish["steps"][-1]
    assert action["uses"].partition("@")[0] == "Comfy-Org/publish-node-action"
    assert action["with"] == {"personal_access_token": SECRET}
    registry = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]
    assert repr(registry["PublisherId"]) in publish["if"]


def test_hook_has_the_pinned_ruff() -> None:
    [repository] = read(ROOT / ".pre-commit-config.yaml")["repos"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ruff=={repository['rev'].removeprefix('v')}" in pins


def test_dependabot_covers_pins_and_actions() -> None:
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    assert {(update["package-ecosystem"], update["directory"]) for update in updates} == \
           {("pip", "/"), ("github-actions", "/")}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_form_is_complete(form: Path) -> None:
    content = read(form)
    assert {"name", "description", "body"} <= content.keys()
    fields = content["body"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes", "markdown"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"].get("label") for field in fields)


def test_bug_form_asks_for_the_report() -> None:
    fields = {field["id"]: field for field in read(FORMS[0])["body"]}
    required = {name for name, field in fields.items() if field.get("validations", {}).get("required")}
    assert required == {"problem", "log", "device", "settings"}
    [heading] = re.findall('"(.+?)"', fields["log"]["attributes"]["description"])
    assert f'"{heading}' in (ROOT / "nodes" / "train_adapter.py").read_text(encoding="utf-8")
    options = fields["searched"]["attributes"]["options"]
    assert (ROOT / re.findall(r"docs/\S+\.md", options[0]["label"])[0]).is_file()
