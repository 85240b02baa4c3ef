"""Links between the documents, in the repository and in the archive that the registry publishes."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import pathspec
import pytest

ROOT = Path(__file__).parent.parent.parent
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")
HELP = "web/docs"
"""Folder from which ComfyUI resolves the links of help pages, also of those in a folder below it."""


@lru_cache
def tracked() -> tuple[str, ...]:
    """Files of the repository, those not committed yet included."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, check=True).stdout.decode()
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def published() -> set[str]:
    """Files of the archive."""
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    return {name for name in tracked() if not ignored.match_file(name)}


PAGES = [name for name in tracked() if name.endswith(".md")]


def text_of(page: str) -> str:
    """Markdown without its code blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Anchors of its headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: str, text: str, files: set[str]) -> list[str]:
    """Relative links of a page to a file or heading that does not exist."""
    found = []
    folder = ROOT / (HELP if page.startswith(HELP) else Path(page).parent)
    for link in LINK.findall(text):
        if ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = folder.joinpath(name).resolve().relative_to(ROOT).as_posix() if name else page
        known = target in files or any(file.startswith(f"{target}/") for file in files)
        if not known or (anchor and anchor not in anchors(text_of(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    assert broken(page, text_of(page), set(tracked())) == []


@pytest.mark.parametrize("page", sorted(set(PAGES) & published()))
def test_links_resolve_in_the_archive(page: str) -> None:
    assert broken(page, text_of(page), published()) == []


@pytest.mark.parametrize("link", ["docs/nothing.md", "docs/nodes.md#nothing", "#nothing", "docs/nothing.png"])
def test_broken_links_are_found(link: str) -> None:
    assert broken("README.md", f"See [this]({link}).", published()) == [link]


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = {"README.md"}, ["README.md"]
    while ahead:
        page = ahead.pop()
        links = {link.partition("#")[0] for link in LINK.findall(text_of(page)) if not ELSEWHERE.match(link)}
        targets = {(ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT).as_posix() for link in links if link}
        ahead += sorted((targets & set(PAGES)) - reached)
        reached |= targets
    assert {page for page in PAGES if page.startswith("docs/")} - reached == set()


FOR_DEVELOPERS = ("CONTRIBUTING.md", "docs/development.md")


def unknown_names(text: str) -> list[str]:
    """Files and constants that a text for developers names and the repository lacks."""
    names = re.findall(r"`([^`\s]+)`", text)
    tops = {name.partition("/")[0] for name in tracked()}
    files = [name for name in names if name.partition("/")[0] in tops and "<" not in name]
    lacking = [name for name in files if not (ROOT / name).exists()]
    sources = "".join((ROOT / name).read_text(encoding="utf-8") for name in tracked()
                      if name.endswith((".py", ".yml")) and not name.startswith("tests/docs/"))
    constants = [name for name in names if re.fullmatch(r"[A-Z]+(_[A-Z]+)*", name)]
    return lacking + [name for name in constants if not re.search(rf"^{name}\b|[\".]{name}\b", sources, re.MULTILINE)]


@pytest.mark.parametrize("page", FOR_DEVELOPERS)
def test_named_files_and_constants_exist(page: str) -> None:
    assert unknown_names(text_of(page)) == []


def test_unknown_names_are_found() -> None:
    assert unknown_names("`nodes/nothing.py` has `NO_SUCH_NAME`; `sidestep_core/` has `io`") == \
           ["nodes/nothing.py", "NO_SUCH_NAME"]
