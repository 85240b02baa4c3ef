"""Ranks benchmark: one training in one, two and four processes, which are killed at random moments and resumed with
other numbers of processes.

`max_difference` is the largest difference of the final adapters from that of one process, relative to its largest
weight; with `same_samples`, every step's loss is that of the same samples.  A kill hits one process at random; it is
`lost` if the next start does not resume, or resumes from before the last complete checkpoint.  `bytes_per_step` is sent
by each process in one all-reduce and one order, before the algorithm's own factor of at most 2.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import run

STEPS, SAVE_EVERY, KILLS = 12, 2, 5
SAME = 1e-3
"""Relative difference of losses of the same samples; those of others differ by tenths."""
COUNTS = (2, 4)
SECONDS = 600.0
ADAPTER = "adapter.safetensors"


def train_in(folder: Path) -> None:
    """Train in `folder`/run: the work of each process."""
    import torch

    from sidestep_core.adapters.lora import LoraConfig
    from sidestep_core.dataset.manifest import open_dataset
    from sidestep_core.model.checkpoint import open_checkpoint
    from sidestep_core.training.config import TrainConfig
    from sidestep_core.training.parallel.ranks import joined
    from sidestep_core.training.train import train
    from tests.tiny import TinySource

    torch.set_num_threads(1)
    sent = count_bytes()
    materials = folder.parent / "materials"
    model, text_encoder, vae = (next(materials.glob(pattern)) for pattern in ("acestep*", "qwen*", "*vae*"))
    config = TrainConfig.from_json({
        "max_steps": STEPS, "save_every": SAVE_EVERY, "heldout_every": 4, "heldout_songs": 1, "learning_rate": 3e-3,
        "gradient_accumulation": 4, "ema_decay": 0.9, "chunk_duration": 1.6, "device": "cpu",
        "gradient_checkpointing": "off", "keep_checkpoints": 0,
    })  # fmt: skip
    with joined(torch.device("cpu")) as ranks:
        train(TinySource(Path(), []), open_checkpoint(model, text_encoder=text_encoder, vae=vae),
              open_dataset(materials / "dataset"), LoraConfig(rank=8, alpha=8.0), config, folder / "run",
              folder / ADAPTER, ranks=ranks)
    if ranks.leads:
        (folder / "bytes.json").write_text(json.dumps(sum(sent) / STEPS), encoding="utf-8")


def count_bytes() -> list[int]:
    """Count the bytes of everything that is sent."""
    import torch

    sent: list[int] = []
    reduce, broadcast = torch.distributed.all_reduce, torch.distributed.broadcast

    def counted_reduce(tensor: torch.Tensor, *rest: object, **named: object) -> object:
        sent.append(tensor.nbytes)
        return reduce(tensor, *rest, **named)

    def counted_broadcast(tensor: torch.Tensor, *rest: object, **named: object) -> object:
        sent.append(tensor.nbytes)
        return broadcast(tensor, *rest, **named)

    torch.distributed.all_reduce, torch.distributed.broadcast = counted_reduce, counted_broadcast
    return sent


def start(folder: Path, count: int) -> list[subprocess.Popen[bytes]]:
    """Start the processes of a training."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        with (folder / f"rank-{rank}.txt").open("ab") as log:
            processes.append(subprocess.Popen([*run.launch(Path(sys.executable), "benchmarks.ranks"), folder],
                                              env=environment, cwd=run.bootstrap.ROOT, stdout=log, stderr=log))
    return processes


def finish(processes: list[subprocess.Popen[bytes]]) -> bool:
    """Wait for the processes; return True if all ended well.  One that hangs is killed."""
    ends = time.monotonic() + SECONDS
    try:
        return [process.wait(max(1.0, ends - time.monotonic())) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def saved(folder: Path) -> int:
    """Step of the newest complete checkpoint."""
    from sidestep_core.training import run_checkpoint

    return run_checkpoint.newest_step(folder / "run")


def kill_one(folder: Path, count: int) -> bool:
    """Start a training, kill one of its processes once another step was taken, and wait for the others to end."""
    before = steps(folder)
    processes = start(folder, count)
    ends = time.monotonic() + SECONDS
    wanted = min(STEPS - 1, before + random.randint(1, 3))
    while steps(folder) < wanted and time.monotonic() < ends and all(p.poll() is None for p in processes):
        time.sleep(0.01)
    at_work = all(process.poll() is None for process in processes)
    random.choice(processes).kill()
    finish(processes)
    return at_work


def steps(folder: Path) -> int:
    """Number of steps in the run's metrics."""
    path = folder / "run" / "metrics.jsonl"
    return sum('"loss"' in line for line in path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def losses(folder: Path) -> list[float]:
    """Loss of every step: another song, crop, time or noise in any of them would change it much."""
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def agree(one: list[float], other: list[float]) -> bool:
    """Return True for losses of the same samples."""
    return len(one) == len(other) and all(abs(a - b) <= SAME * abs(a) for a, b in zip(one, other, strict=True))


def difference(one: Path, other: Path) -> float:
    """Largest difference of two adapters, relative to the largest weight of the first."""
    from sidestep_core.io.tensors import read_tensors

    first, second = read_tensors(one), read_tensors(other)
    largest = max(float(first[name].abs().max()) for name in first if not name.endswith("alpha"))
    return max(float((first[name] - second[name]).abs().max()) for name in first) / largest


def disturbed(root: Path) -> tuple[int, int]:
    """Kill a training again and again, with another number of processes each time; return (kills, lost)."""
    folder, kills, lost = root / "disturbed", 0, 0
    while kills < KILLS and steps(folder) < STEPS - 1:
        before = saved(folder)
        kills += kill_one(folder, COUNTS[kills % len(COUNTS)])
        lost += saved(folder) < before
    lost += not finish(start(folder, 3))
    return kills, lost


def main() -> int:
    if len(sys.argv) > 1:
        train_in(Path(sys.argv[1]))
        return 0
    with TemporaryDirectory() as root:
        found = measure(Path(root))
    print(json.dumps(found))
    return 0 if found["max_difference"] <= 1e-5 and found["same_samples"] and not found["lost"] else 1


def measure(root: Path) -> dict[str, Any]:
    """Train in one, two and four processes, and in others that are killed."""
    from benchmarks.resume import write_materials

    write_materials(root / "materials")
    differences, same = {}, True
    for count in (1, *COUNTS):
        if not finish(start(root / str(count), count)):
            print((root / str(count) / "rank-0.txt").read_text(encoding="utf-8")[-2000:])
            raise SystemExit("The training in so many processes failed.")
        differences[count] = difference(root / "1" / ADAPTER, root / str(count) / ADAPTER)
        same = same and agree(losses(root / "1"), losses(root / str(count)))
        print(f"{count} processes: difference {differences[count]:.2g}", flush=True)
    kills, lost = disturbed(root)
    same = same and agree(losses(root / "1"), losses(root / "disturbed"))
    differences[0] = difference(root / "1" / ADAPTER, root / "disturbed" / ADAPTER)
    return {"max_difference": max(differences.values()), "kills": kills, "lost": lost, "same_samples": same,
             "bytes_per_step": json.loads((root / "2" / "bytes.json").read_text(encoding="utf-8"))}


if __name__ == "__main__":
    sys.exit(main())
