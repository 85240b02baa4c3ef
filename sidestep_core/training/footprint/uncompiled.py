"""Repetition of work in which a compiled layer failed, without the compiler: a step has the same draws."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

from ...device import is_out_of_memory, release_memory
from ...errors import SideStepError
from ...progress import Cancelled, Progress, Report
from ...sentence import Sentence
from ..step import Training

log = logging.getLogger(__name__)

LONGEST_REASON = 200
"""Characters of a compiler's message in a notice; all of it is in the log."""

Result = TypeVar("Result")


def without_failing_compiler(work: Callable[[], Result], training: Training, step: int, report: Report) -> Result:
    """Do the work of a step (0-based).  If it fails while layers are compiled, go on without that, and repeat it: an
    error that has another cause comes again.
    """
    decoder = training.objective.decoder
    try:
        return work()
    except Exception as error:  # noqa: BLE001 (compilers raise anything; what is no fault of theirs comes again)
        if decoder.compiled is None or isinstance(error, (Cancelled, SideStepError)) or is_out_of_memory(error):
            raise
        log.warning("A compiled layer failed in step %d.", step + 1, exc_info=True)
        traceback.clear_frames(error.__traceback__)
        # Torch puts the backend into a line of its own, above the reason.
        reason = " ".join(str(error).split("\n")[:2])[:LONGEST_REASON] or type(error).__name__
    decoder.compiled = None
    training.optimizer.zero_grad(set_to_none=True)
    release_memory(training.objective.device)
    notice = Sentence("The compiler failed in step {step}, so the training goes on without it, from the same step: "
                      "{reason}", step=step + 1, reason=reason)
    log.warning(notice)
    report(Progress(stage="train", step=step, total=training.total_steps, notice=notice))
    return work()
