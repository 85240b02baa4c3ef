"""`merge`, also called `apply`: a copy of the model with adapters baked in."""

from __future__ import annotations

import argparse
from pathlib import Path

from sidestep_core.errors import ConfigError

from .console import Output
from .models import open_model
from .stop import stoppable


def run(arguments: argparse.Namespace, output: Output) -> None:
    """Run `merge`."""
    import torch

    from sidestep_core.adapters import merge
    from sidestep_core.adapters.file import content_fingerprint
    from sidestep_core.adapters.formats import weights_file

    model = open_model(arguments)
    checkpoint, weights = model.checkpoint, model.checkpoint.model_weights()
    paths: list[Path] = arguments.adapter
    strengths = arguments.strength or [1.0] * len(paths)
    if len(strengths) != len(paths):
        raise ConfigError(f"{len(paths)} adapters and {len(strengths)} strengths were given. Give one strength for "
                          "each, in their order, or none.")
    adapters = [(path.expanduser().absolute(), strength) for path, strength in zip(paths, strengths, strict=True)]
    out: Path = arguments.output.expanduser().absolute()
    target = out.with_name(f"{merge.stem(out.name.removesuffix('.safetensors'), checkpoint.variant)}.safetensors")
    facts = {"model": checkpoint.name, "checkpoint": checkpoint.fingerprint, "variant": checkpoint.variant,
             "alpha": arguments.alpha, "adapters": [
                 {"file": path.name, "content": content_fingerprint(weights_file(path)), "strength": strength}
                 for path, strength in adapters]}
    with torch.no_grad(), stoppable(output) as stop:
        shapes = {name: weights.shape(name) for name in weights.names}
        patch, notices = merge.combine(adapters, arguments.alpha, shapes)
        target, exists = merge.free_path(checkpoint, target, facts)
        if not exists:
            target.parent.mkdir(parents=True, exist_ok=True)
            merge.merge(checkpoint, patch, target, facts, report=stop.reporting())
    for notice in notices:
        output.notice(notice)
    output.result({"model": str(target), "weights": len(patch.parameters)},
                  f"{target} is ready: {len(patch.parameters)} weights changed.")
