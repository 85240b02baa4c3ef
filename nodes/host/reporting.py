"""Show every error of a node on the node itself, in words, and keep its output for pages that open later."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import comfy.model_management
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ...sidestep_core.errors import SideStepError
from ...sidestep_core.progress import was_stopped
from ..routes import events
from . import wording

log = logging.getLogger(__name__)


def reported(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Wrap the node's execute so that the page learns its outcome; an interrupt is no error.

    The id comes from the host's context: asked for as a hidden input it would be part of what results are cached by.
    """
    execute = node.execute.__func__

    @functools.wraps(execute)
    def reporting(cls: type[io.ComfyNode], *args: object, **inputs: object) -> io.NodeOutput:
        context = get_executing_context()
        node_id = "" if context is None else str(context.node_id)
        try:
            output = execute(cls, *args, **inputs)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:
            if was_stopped(error):
                raise
            message = wording.sentence(error)
            events.fail(node_id, message)
            if isinstance(error, SideStepError):
                error.args = (message,)  # ComfyUI's own dialog shows it too
            raise
        output.ui = wording.readable_json(output.ui)  # ComfyUI sends it to the page as it is
        events.remember(node_id, (output.ui or {}).get("sidestep", [{}])[0])
        return output

    node.execute = classmethod(reporting)
    return node


def warned(warnings: Sequence[str], result: str = "") -> dict[str, object]:
    """Message of a node: its result, and warnings of a partial one, which are logged too."""
    sentences = [wording.readable(sentence) for sentence in warnings]
    for sentence in sentences:
        log.warning("%s", sentence)
    message = " ".join([*([result] if result else []), *sentences])
    return {"message": message, "warning": bool(sentences)} if message else {}
