"""A pack of the tests: a node that reports as a training does, at any speed, through the real `run_stage`; and a least
time for the steps of real trainings, as the buttons of a training that takes a second cannot be pressed."""

from __future__ import annotations

import importlib
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy
from aiohttp import web
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

MICRO_STEPS = 4
HOSTILE = "<img src=x onerror=alert(1)> \U0001f3b8 \ud800"
ODD = (math.nan, math.inf, -math.inf, 10**400, numpy.float32("nan"), numpy.float16(1.5), numpy.int64(3), 1e308, True)


def part_of_pack(name: str) -> ModuleType:
    """A module of Side-Step as the host has loaded it."""
    return next(module for path, module in sys.modules.items() if path.endswith(f"comfyui-side-step.{name}"))


class DriveSteps(io.ComfyNode):
    """Reports steps of a given length on its own node, with four silent micro-steps each, and keeps their rows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestsDriveSteps", category="tests", is_output_node=True, not_idempotent=True,
            hidden=[io.Hidden.unique_id],
            inputs=[io.String.Input("metrics_file"), io.Int.Input("steps", max=100_000),
                    io.Float.Input("step_seconds", max=10.0), io.Float.Input("pause_at_end", max=60.0),
                    io.Boolean.Input("odd", default=False, optional=True)])

    @classmethod
    def execute(cls, metrics_file: str, steps: int, step_seconds: float, pause_at_end: float,
                odd: bool = False) -> io.NodeOutput:
        host, metrics = part_of_pack("nodes.host.worker"), part_of_pack("sidestep_core.training.metrics")
        progress = part_of_pack("sidestep_core.progress").Progress
        live = part_of_pack("nodes.host.live")
        file = Path(metrics_file)

        def stage(report):  # type: ignore[no-untyped-def]
            rows = metrics.Metrics(file, after_step=0)
            for step in range(steps):
                for _ in range(MICRO_STEPS):
                    time.sleep(step_seconds / MICRO_STEPS)
                    report(progress(stage="train", step=step, total=steps))
                row = rows.add_step(step + 1, {"loss": 1 / (step + 1), "lr": 1e-4, "epoch": 1.0})
                if odd:
                    row |= {"loss": ODD[step % len(ODD)], HOSTILE: 1.0, "eta_seconds": math.inf}
                report(progress(stage="train", step=step + 1, total=steps, metrics=row, message=HOSTILE if odd else ""))
            report(progress(stage="preview", step=1, total=2, message="After the last step: decoding"))
            time.sleep(pause_at_end)

        with live.training(file.parent.name, cls.hidden.unique_id):
            host.run_stage(cls.hidden.unique_id, file.parent.name, stage, summary=lambda _: "Done.")
        return io.NodeOutput()


class Pace:
    """Time that each step of a training waits before it begins."""

    seconds: float | None = None


@PromptServer.instance.routes.post("/tests/pace")
async def set_pace(request: web.Request) -> web.Response:
    """Set the pace of all trainings."""
    if Pace.seconds is None:
        worker = "nodes.host.worker"
        pack = part_of_pack(worker).__name__.removesuffix(worker)
        loop = importlib.import_module(f"{pack}sidestep_core.training.loop")
        take_step = loop.take_step

        def waited(*arguments):  # type: ignore[no-untyped-def]
            time.sleep(Pace.seconds)
            return take_step(*arguments)

        loop.take_step = waited
    Pace.seconds = (await request.json())["seconds"]
    return web.json_response({})


class Driver(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [DriveSteps]


async def comfy_entrypoint() -> Driver:
    return Driver()
