"""HTTP routes that control a training: POST /sidestep/runs/{run}/{control}.

Each answers at once; the training acts after the step in hand.  The browser side is web/runs/server.js.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import comfy.model_management
from aiohttp import web
from server import PromptServer

from ...sidestep_core.errors import AdapterError
from ...sidestep_core.runs import files
from ...sidestep_core.sentence import Sentence
from ...sidestep_core.training import run_checkpoint
from ...sidestep_core.training.controls import Refused, Request
from ..host import folders, live, polite
from ..host.wording import sentence
from . import events
from .json_api import answer, body

AFTER_THIS_STEP: Mapping[Request, Sentence] = {
    "save": Sentence("Saving after this step"),
    "preview": Sentence("Generating a preview after this step"),
    "finish": Sentence("Finishing after this step"),
    "pause": Sentence("Pausing after this step"),
}


@PromptServer.instance.routes.post("/sidestep/runs/{run}/{control:stop|finish|save|preview|pause|continue}")
async def post_control(request: web.Request) -> web.Response:
    """Pass the request on; 404 for an unknown run, 409 with a sentence where the control does not fit."""
    await body(request)
    run, control = request.match_info["run"], request.match_info["control"]
    training, waiting = live.find(run), live.waiting(run)
    try:
        if training is None and waiting is not None:
            _while_waiting(waiting, control)
        elif training is None:
            await asyncio.to_thread(lambda: _after_the_end(control, files.run_folder(folders.runs_folder(), run)))
        else:
            _during(training, control)
    except files.NoRun as error:
        return _refusal(404, sentence(error))
    except (Refused, AdapterError) as error:
        return _refusal(409, sentence(error))
    return answer({})


def _during(training: live.Live, control: str) -> None:
    """Control a training that is under way.  Refused, with the reason, where that does not fit."""
    if control == "stop":
        training.stopped.set()
        comfy.model_management.interrupt_current_processing()
        events.stop(training.node_id, training.run)
    elif training.stopped.is_set():
        raise Refused("The training is stopping.")
    elif control == "continue":
        training.controls.withdraw("pause")
        events.announce_request(training.node_id, training.run, "")
    else:
        training.controls.ask(control)
        events.announce_request(training.node_id, training.run, AFTER_THIS_STEP[control])


def _while_waiting(waiting: live.Waiting, control: str) -> None:
    """Control a training that gave way to other work.  Refused, with the reason, where that does not fit."""
    if control == "stop":
        polite.remove(waiting.prompt_id)
        return
    if control == "pause" or control == "finish":
        live.ask_later(waiting.training.run, control)
    elif control != "continue" or live.pop_later(waiting.training.run) is None:
        raise Refused("The training waits for other work. It goes on by itself.")
    polite.announce(waiting.training)


def _after_the_end(control: str, folder: Path) -> None:
    """Let a run that was finished by hand take its other steps when it is started again; Refused for the rest."""
    if control == "stop":
        return
    if control != "continue":
        raise Refused("This training has ended.")
    if run_checkpoint.finished_by_hand(folder) is not None:
        run_checkpoint.reopen(folder)
        live.reopened.add(folder.name)
    elif run_checkpoint.is_finished(folder):
        raise Refused("All steps of this training are done. To train longer, raise max_steps and choose its last "
                      "checkpoint in resume_from.")


def _refusal(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
