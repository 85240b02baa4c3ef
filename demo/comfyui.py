"""Open the demo's ComfyUI, or the user's own, in a browser.  Run by `run.py comfyui`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from .models import DemoError
from .server import PACK_NAME, ComfyUI, ServerError, free_port
from .setup import PACK, set_up

FIRST_PORT = 8188
DEMO = Path(__file__).parent / "train_then_generate.json"


def main() -> int:
    """Serve until Ctrl-C; return the server's exit code, 0 after Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    host = Path(os.environ["COMFYUI_PATH"]).absolute()
    try:
        base = host
        if host.is_relative_to(PACK / ".cache"):
            base = set_up().base
            offer_workflow(base)
        with ComfyUI(host, base, pack=PACK, port=free_port(FIRST_PORT), echo=True) as server:
            print(f"\nOpen {server.address} in your browser. The demo's workflow is saved as \"Side-Step demo\"; the "
                  f"one for real models is under Workflow > Browse Templates > {PACK_NAME}.\nCtrl-C ends ComfyUI.",
                  flush=True)
            return server.process.wait()
    except KeyboardInterrupt:
        return 0
    except (DemoError, ServerError, OSError) as error:
        print(f"ComfyUI could not be opened. {error}", file=sys.stderr)
        return 1


def offer_workflow(base: Path) -> None:
    """Save the demo's workflow among the user's; the template asks for real models."""
    saved = base / "user" / "default" / "workflows"
    saved.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(DEMO, saved / "Side-Step demo.json")


if __name__ == "__main__":
    sys.exit(main())
