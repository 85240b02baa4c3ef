"""DatasetCache: how much room a dataset takes, whether all of it is whole, and what of it nothing needs any more."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io

from ..sidestep_core.dataset import maintenance
from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.progress import Report
from .host.wording import readable
from .host.worker import run_stage
from .sockets import CATEGORY, DatasetSocket

PROBLEMS_SHOWN = 5
REPORT, VERIFY, CLEAN = "report", "verify", "clean"


class DatasetCache(io.ComfyNode):
    """Dataset -> text"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepDatasetCache",
            display_name="Manage Dataset Cache",
            category=CATEGORY,
            description="Shows how much room the encoded songs take, checks every file, or removes what no song needs "
                        "any more. Nothing is removed unless action is clean.",
            search_aliases=["disk space", "verify", "clean", "orphans", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                DatasetSocket.Input("dataset"),
                io.Combo.Input("action", options=[REPORT, VERIFY, CLEAN], default=REPORT, tooltip=(
                    "report: how much room it takes. verify: read every file and check it. clean: remove the files "
                    "that no song of the dataset needs any more.")),
            ],
            outputs=[io.String.Output(display_name="text")],
        )

    @classmethod
    def execute(cls, dataset: Dataset, action: str) -> io.NodeOutput:
        text = run_stage(cls.hidden.unique_id, f"cache-{dataset.folder.name}",
                         lambda report: _ACTIONS[action](dataset, report), summary=str)
        return io.NodeOutput(text, ui={"sidestep": [{"message": text}]})

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Runs each time: the files change without the node."""
        return float("nan")


def _room(dataset: Dataset, report: Report) -> str:
    found = maintenance.usage(dataset.folder)
    text = f"{_count(len(dataset.samples), 'song')}, {_count(found.files, 'file')}, {_megabytes(found.bytes)}."
    if not found.orphans:
        return f"{text} All of it is needed."
    return (f"{text} {found.orphans} files ({_megabytes(found.orphan_bytes)}) are needed by no song any more; clean "
            "removes them.")


def _check(dataset: Dataset, report: Report) -> str:
    problems = maintenance.verify(dataset, report=report)
    if not problems:
        return f"Every file of the {_count(len(dataset.samples), 'song')} is whole."
    shown = " ".join(f"{problem.name}: {problem.reason.removesuffix('.')}." for problem in problems[:PROBLEMS_SHOWN])
    return readable(f"{_count(len(problems), 'problem')}. {shown}")


def _remove(dataset: Dataset, report: Report) -> str:
    removed = maintenance.clean(dataset.folder)
    if not removed.orphans:
        return "Nothing to remove."
    return f"{_count(removed.orphans, 'file')} removed, {_megabytes(removed.orphan_bytes)}."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


_ACTIONS: dict[str, Callable[[Dataset, Report], str]] = {REPORT: _room, VERIFY: _check, CLEAN: _remove}
