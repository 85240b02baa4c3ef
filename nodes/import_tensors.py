"""ImportTensors: a folder of .pt files that another trainer encoded becomes a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .host import folders
from .host.loaded_model import checkpoint_of
from .host.worker import run_stage
from .sockets import CATEGORY, DatasetSocket, checkpoint_input

if TYPE_CHECKING:
    from ..sidestep_core.dataset.preprocess import Preprocessed

PROBLEMS_SHOWN = 3


class ImportTensors(io.ComfyNode):
    """Checkpoint, folder of .pt -> Dataset"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepImportTensors",
            display_name="Import Tensors",
            category=CATEGORY,
            description="Takes songs that Side-Step or ACE-Step's own trainer encoded into .pt files. Nothing in those "
                        "files can run. Better encode the songs again if you still have them.",
            search_aliases=["pt", "preprocessed tensors", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                checkpoint_input(),
                io.String.Input("folder", default="", tooltip=(
                    "Folder with .pt files: a full path, or the name of a folder in ComfyUI's input folder.")),
                io.String.Input("dataset_name", default="imported", tooltip=(
                    "The dataset is kept in output/sidestep/datasets under this name.")),
            ],
            outputs=[DatasetSocket.Output(display_name="dataset")],
        )

    @classmethod
    def execute(cls, checkpoint: object, folder: str, dataset_name: str) -> io.NodeOutput:
        from ..sidestep_core.dataset.import_tensors import import_tensors

        source, target = folders.given_folder(folder, ".pt files"), folders.dataset_folder(dataset_name)
        model = checkpoint_of(checkpoint)
        done = run_stage(cls.hidden.unique_id, target.name,
                         lambda report: import_tensors(source, model, target, report=report), summary=_summary)
        problems = [{"name": problem.name, "reason": problem.reason} for problem in done.problems]
        return io.NodeOutput(done.dataset, ui={"sidestep": [{
            "songs": len(done.dataset.samples), "minutes": round(done.dataset.seconds / 60, 1), "folder": str(target),
            "problems": problems, "message": _summary(done),
        }]})

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> str:
        """Looks again when a file in the folder changed."""
        return folders.content_stamp(folders.given_folder(folder, ".pt files"))


def _summary(done: Preprocessed) -> str:
    """Sentence on the imported songs, and on those left out with the reason."""
    text = f"{len(done.dataset.samples)} songs imported, with the conditioning of another program."
    shown = "; ".join(f"{problem.name}: {problem.reason}" for problem in done.problems[:PROBLEMS_SHOWN])
    more = len(done.problems) - PROBLEMS_SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    return f"{text} Left out: {shown}{rest}." if shown else text
