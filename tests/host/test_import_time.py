"""Time that the pack adds to ComfyUI's start, measured in a process of its own."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARE = 0.25
"""Largest share of the pack in the CPU time of loading it and then peft."""
HOST = """
import asyncio, gc, importlib.util, sys, time
host, pack = sys.argv[1:]
sys.argv[1:] = ["--cpu", "--base-directory", host]
sys.path.insert(0, host)
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server, comfy_api.latest
loop = asyncio.new_event_loop()
server.PromptServer(loop)
gc.collect()
gc.disable()  # ComfyUI has millions of objects: a collection of them is not the pack's time
"""
LOAD = """
start = time.process_time()
spec = importlib.util.spec_from_file_location("side_step", pack + "/__init__.py", submodule_search_locations=[pack])
module = sys.modules["side_step"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = loop.run_until_complete(module.comfy_entrypoint())
assert loop.run_until_complete(extension.get_node_list())
"""
COMPARE = """
loaded = time.process_time()
import peft
print('share', (loaded - start) / (time.process_time() - start))
"""


def test_loading_the_pack_is_light() -> None:
    """Compared with one heavy import, which people would notice.  Compiling is the first start's alone."""
    for package in ("nodes", "sidestep_core"):
        assert compileall.compile_dir(ROOT / package, quiet=1)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", HOST + LOAD + COMPARE, os.environ["COMFYUI_PATH"], str(ROOT)],
                          env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rpartition("share ")[2]) <= SHARE
