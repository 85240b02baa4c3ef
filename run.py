"""Entry point of this repository: python run.py demo | test | comfyui | bench | hosts.

Needs Python 3.11+ and pip; the first run sets up everything else in .venv and .cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# Portable Pythons, such as ComfyUI's for Windows, do not look beside the script by themselves.
sys.path.insert(0, str(Path(__file__).absolute().parent))

import bootstrap  # noqa: E402

LAUNCH = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = sys.argv[2:]; "
          "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)")
"""Code that runs a module of this folder, for the same reason."""

NEED_A_CARD = {"gpu"}
"""Benchmarks that run only when they are named."""
COMPILES = "tests/core/training/test_compile.py"
"""Tests of torch's compiler, in a process of their own: after a thousand others it once crashed in theirs."""
MAX_WORKERS = 4
"""Upper limit of test processes; each may run its own ComfyUI and Chromium, about 3 GB."""


def main() -> int:
    """Run the command and return its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 (any Python may be what starts this file)
        print(f"Side-Step needs Python 3.11 or newer; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a song's name may be in no alphabet of the console
    options, rest = parser().parse_known_args()
    if rest and options.command != "test":
        parser().error(f"{options.command} does not know {' '.join(rest)}")
    if options.command == "hosts":
        try:
            return hosts(options.version)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return 130
    try:
        setup = bootstrap.prepare(dev=options.command in ("test", "bench"))
        env = environment(setup)
        if options.command == "test":
            env["CHROMIUM"] = str(bootstrap.chromium())
            bootstrap.cjk_font()
            return test(setup.python, env, rest)
    except bootstrap.SetupError as error:
        print(f"Set-up stopped. {error}", file=sys.stderr)
        return 1
    if options.command == "bench":
        return bench(setup.python, env, options.name)
    module = "demo" if options.command == "demo" else "demo.comfyui"
    given = [("--audio", options.audio), ("--checkpoint", options.checkpoint)] if options.command == "demo" else []
    return foreground([*launch(setup.python, module), *(part for pair in given if pair[1] for part in pair)], env)


def parser() -> argparse.ArgumentParser:
    """Build the parser; arguments that `test` does not know go to pytest."""
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train an adapter in a real ComfyUI, apply it, generate, and verify it all")
    demo.add_argument("--audio", type=absolute, help="a folder of music instead of the embedded songs")
    demo.add_argument("--checkpoint", type=absolute, help="a real ACE-Step 1.5 file instead of the embedded tiny one")
    commands.add_parser("test", help="ruff, mypy and every test; further arguments go to pytest")
    commands.add_parser("comfyui", help="open the same ComfyUI in your browser")
    bench = commands.add_parser("bench", help="run one benchmark, or all that need no graphics card")
    bench.add_argument("name", nargs="?", choices=benchmarks(), help="a file of benchmarks/, without .py")
    versions = [host.version for host in bootstrap.HOSTS]
    hosts = commands.add_parser("hosts", help=f"the demo in each of ComfyUI {', '.join(versions)}")
    hosts.add_argument("version", nargs="*", choices=[*versions, []], help="only these")
    return parser


def environment(setup: bootstrap.Setup) -> dict[str, str]:
    """Environment variables that tell this repository's modules about the set-up."""
    env = {**os.environ, "COMFYUI_PATH": str(setup.host), "COMFYUI_PYTHON": str(setup.host_python)}
    # Without the cache every process compiles thousands of library files, half a minute each time.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def absolute(path: str) -> Path:
    """Resolve a path in the user's folder; modules run in this one."""
    return Path(path).expanduser().absolute()


def benchmarks() -> list[str]:
    """Names of the benchmarks."""
    return sorted(path.stem for path in (bootstrap.ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_"))


def test(python: Path, env: dict[str, str], arguments: list[str]) -> int:
    """Run ruff, mypy and pytest; non-zero if one failed.  pytest comes last, so its verdict is the last line."""
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    # glibc would keep gigabytes that a model has freed in a worker's heap for the rest of the tests.
    env = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20), **env}
    # A worker that is started again waits for ever (xdist 3.8).
    everything = ["-n", str(workers), "--max-worker-restart", "0", "--durations", "10", "--ignore", COMPILES, "tests"]
    checks = [["ruff", "check"], ["mypy", "--strict", "sidestep_core", "sidestep_cli"],
              *([] if arguments else [["pytest", COMPILES]]), ["pytest", *(arguments or everything)]]
    codes = []
    for check in checks:
        print(f"== {' '.join(check)}", flush=True)
        codes.append(foreground([python, "-m", *check], env))
    return next((code for code in codes if code), 0)


def bench(python: Path, env: dict[str, str], name: str | None) -> int:
    """Run the named benchmark, or all in turn; return the first failure's exit code."""
    codes = []
    for each in [name] if name else sorted({*benchmarks()} - NEED_A_CARD):
        print(f"== {each}", flush=True)
        codes.append(foreground(launch(python, f"benchmarks.{each}"), env))
    return next((code for code in codes if code), 0)


def hosts(versions: list[str]) -> int:
    """Run the demo in each ComfyUI in turn; return 1 if one failed.  The last line is their facts as JSON."""
    results = {host.version: demo_in(host) for host in bootstrap.HOSTS if not versions or host.version in versions}
    print(json.dumps(results), flush=True)
    return int(any("error" in facts for facts in results.values()))


def demo_in(host: bootstrap.Host) -> dict[str, object]:
    """Run the demo in one ComfyUI; return its facts, or its error."""
    print(f"== ComfyUI {host.version}", flush=True)
    try:
        setup = bootstrap.prepare_host(host)
    except bootstrap.SetupError as error:
        return {"error": str(error)}
    base = bootstrap.CACHE / "hosts" / host.version
    shutil.rmtree(base, ignore_errors=True)  # start from nothing
    command = [*launch(setup.python, "demo"), "--base", base]
    with subprocess.Popen(command, env=environment(setup), cwd=bootstrap.ROOT, text=True, encoding="utf-8",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    if process.returncode:
        verdict = f"The demo ended with exit code {process.returncode}."
        return {"error": next((line for line in reversed(lines) if line.startswith("The demo failed")), verdict)}
    facts: dict[str, object] = json.loads(lines[-1])
    return facts


def launch(python: Path, module: str) -> list[str | Path]:
    """Build the command that runs a module of this repository; arguments may follow."""
    return [python, "-c", LAUNCH, bootstrap.ROOT, module]


def foreground(command: list[str | Path], env: dict[str, str]) -> int:
    """Run a command to its end.  Ctrl-C reaches it directly, and it gets the time to clean up."""
    with subprocess.Popen(command, env=env, cwd=bootstrap.ROOT) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


if __name__ == "__main__":
    sys.exit(main())
