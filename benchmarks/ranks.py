"""Ranks benchmark: one training in one, two and four processes, and in processes that are killed at random moments and
resumed with other numbers of them.

`max_difference` is the largest absolute difference of a weight of the final adapters from that of one process: weights
are what the file holds, and a difference is judged without any other number.  The table also divides it by the largest
weight of the adapter, and each tensor's by its own largest, which is the strictest.  `same_samples`: every step's loss
equals that of one process, bit for bit.

A kill (SIGKILL) hits one process at random, after a random number of steps and a random time; the others end by
themselves, and another number of processes goes on.  It is `lost` if the next start does not resume, or resumes from
before the last complete checkpoint.  `bytes_per_step` is what each of two processes sends, as the algorithms go.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests import processes

STEPS, SAVE_EVERY, KILLS, PASSES = 24, 2, 10, 4
COUNTS = (2, 4)
AFTER_KILLS = (1, 2, 3, 4)
"""Numbers of processes of the killed trainings."""
MOST_STEPS = 4
"""Most steps of a start that is killed."""
LATEST = 0.3
"""Longest time between a step and a kill, in seconds: some steps and a save."""
SECONDS = 120.0
"""Time after which a process counts as hanging."""
ADAPTER = "adapter.safetensors"


def train_in(folder: Path) -> None:
    """Train in `folder`/run: the work of each process."""
    import torch

    from sidestep_core.adapters.lora import LoraConfig
    from sidestep_core.dataset.manifest import open_dataset
    from sidestep_core.model.checkpoint import open_checkpoint
    from sidestep_core.progress import Progress
    from sidestep_core.training.config import TrainConfig
    from sidestep_core.training.parallel.ranks import joined
    from sidestep_core.training.train import train
    from tests.tiny import TinySource

    sent = count_bytes()
    materials = folder.parent / "materials"
    model, text_encoder, vae = (next(materials.glob(pattern)) for pattern in ("acestep*", "qwen*", "*vae*"))
    config = TrainConfig.from_json({
        "max_steps": STEPS, "save_every": SAVE_EVERY, "heldout_every": 6, "heldout_songs": 1, "learning_rate": 3e-3,
        "gradient_accumulation": PASSES, "ema_decay": 0.9, "chunk_duration": 1.6, "device": "cpu",
        "gradient_checkpointing": "off", "keep_checkpoints": 0,
    })  # fmt: skip
    def report(progress: Progress) -> None:
        if "loss" in progress.metrics:
            print(progress.step, flush=True)

    with joined(torch.device("cpu")) as ranks:
        train(TinySource(Path(), []), open_checkpoint(model, text_encoder=text_encoder, vae=vae),
              open_dataset(materials / "dataset"), LoraConfig(rank=8, alpha=8.0, dropout=0.1), config, folder / "run",
              folder / ADAPTER, report=report, ranks=ranks)
    if ranks.leads:
        (folder / "bytes.json").write_text(json.dumps(sum(sent) / STEPS), encoding="utf-8")


def count_bytes() -> list[float]:
    """Count the bytes that this process sends to others, by the algorithms of a ring and of an exchange in pairs."""
    import torch

    sent: list[float] = []

    def counting(usual: Callable[..., Any], share: Callable[[int], float], position: int) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            sent.append(arguments[position].nbytes * share(torch.distributed.get_world_size()))
            return usual(*arguments, **named)

        return counted

    for name, share, position in (("all_reduce", lambda count: 2 * (count - 1) / count, 0),
                                  ("all_to_all_single", lambda count: (count - 1) / count, 1),
                                  ("all_gather", lambda count: count - 1, 1), ("broadcast", lambda count: 1, 0)):
        setattr(torch.distributed, name, counting(getattr(torch.distributed, name), share, position))
    return sent


def steps(log: Path) -> list[int]:
    """Steps that the leader has printed."""
    path = log.with_name(f"{log.name}-0.txt")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [int(line) for line in lines if line.isdigit()]


def finished(folder: Path, count: int, log: Path) -> None:
    """Train to the end.  SystemExit, with what the leader printed, if that fails."""
    if processes.finish(processes.start(count, log, train_in, folder), SECONDS) != [0] * count:
        print(processes.printed(log, 0)[-2000:])
        raise SystemExit(f"The training in {count} processes failed.")


def killed(folder: Path, count: int, log: Path) -> bool:
    """Start a training and kill one of its processes after a few steps, at any moment; return True if it was still at
    work.  SystemExit if another hangs."""
    ranks = processes.start(count, log, train_in, folder)
    wanted, ends = random.randint(1, MOST_STEPS), time.monotonic() + SECONDS
    while len(steps(log)) < wanted and time.monotonic() < ends and all(rank.is_alive() for rank in ranks):
        time.sleep(0.005)
    time.sleep(random.uniform(0, LATEST))
    at_work = all(rank.is_alive() for rank in ranks)
    random.choice(ranks).kill()
    begun = time.monotonic()
    processes.finish(ranks, SECONDS)
    if time.monotonic() - begun >= SECONDS:
        raise SystemExit("A process went on without the one that was killed.")
    return at_work


def complete(folder: Path, taken: list[int]) -> int:
    """Step of the last complete checkpoint: the newest on the disk, at least the last one due before a printed step."""
    from sidestep_core.training import run_checkpoint

    return max(run_checkpoint.newest_step(folder / "run"), (max(taken, default=1) - 1) // SAVE_EVERY * SAVE_EVERY)


def disturbed(folder: Path, most: int) -> tuple[int, int]:
    """Kill a training again and again, with another number of processes each time, and finish it; return (kills, lost).
    """
    kills = lost = kept = count = 0
    while True:
        count = random.choice([other for other in AFTER_KILLS if other != count])
        log = folder / f"start-{kills}"
        last = kills == most or kept > STEPS - MOST_STEPS
        if last:
            finished(folder, count, log)
        elif not killed(folder, count, log):
            return kills, lost
        taken = steps(log)
        # The first step after a start is that behind the checkpoint.
        lost += bool(taken) and taken[0] <= kept
        if last:
            return kills, lost
        kept, kills = max(kept, complete(folder, taken)), kills + 1
        print(f"kill {kills} of this run, one of {count}: steps {taken}, {kept} is kept", flush=True)


def losses(folder: Path) -> list[float]:
    """Loss of every step: another song, crop, time or noise in any of them would change it."""
    from sidestep_core.training import metrics

    return [row["loss"] for row in metrics.read(folder / "run" / metrics.FILE) if "loss" in row]


def difference(one: Path, other: Path) -> dict[str, float]:
    """Largest difference of two adapters: of a weight, by the largest weight, and by the largest of each tensor."""
    from sidestep_core.io.tensors import read_tensors

    first, second = ({name: tensor.double() for name, tensor in read_tensors(path).items()
                      if not name.endswith("alpha")} for path in (one, other))
    largest = {name: float(tensor.abs().max()) for name, tensor in first.items()}
    apart = {name: float((first[name] - second[name]).abs().max()) for name in first}
    return {"absolute": max(apart.values()), "of_largest": max(apart.values()) / max(largest.values()),
            "of_tensors": max(apart[name] / largest[name] for name in first)}


def measure(root: Path) -> dict[str, Any]:
    """Train in one, two and four processes, and in others that are killed."""
    from benchmarks.resume import write_materials

    write_materials(root / "materials")
    names = {f"{count} processes": count for count in COUNTS}
    finished(root / "1", 1, root / "1" / "rank")
    for name, count in names.items():
        finished(root / name, count, root / name / "rank")
    kills, lost, trainings = 0, 0, [*names]
    while kills < KILLS:
        trainings.append(f"killed, run {len(trainings) - len(names) + 1}")
        now_killed, now_lost = disturbed(root / trainings[-1], KILLS - kills)
        kills, lost = kills + now_killed, lost + now_lost
    found = {name: difference(root / "1" / ADAPTER, root / name / ADAPTER) for name in trainings}
    print(f"{'difference from one process':28} {'absolute':>10} {'of largest':>10} {'of tensors':>10}  same file")
    for name, apart in found.items():
        same = (root / "1" / ADAPTER).read_bytes() == (root / name / ADAPTER).read_bytes()
        print(f"{name:28} " + " ".join(f"{value:10.2g}" for value in apart.values()) + f"  {same}", flush=True)
    return {"max_difference": max(apart["absolute"] for apart in found.values()), "kills": kills, "lost": lost,
            "same_samples": all(losses(root / name) == losses(root / "1") for name in trainings),
            "bytes_per_step": json.loads((root / "2 processes" / "bytes.json").read_text(encoding="utf-8"))}


def main() -> int:
    with TemporaryDirectory() as root:
        found = measure(Path(root))
    print(json.dumps(found))
    return 0 if found["max_difference"] <= 1e-5 and found["same_samples"] and not found["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
