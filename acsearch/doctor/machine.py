"""The checks of `acsearch doctor` for this machine: settings, folder, packages, GPU and Slurm.

A check is a function that returns its findings; it tries things out where it can. `acsearch.doctor.services` has the
checks of the database, MLflow and the work store.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import acsearch
from acsearch.doctor.finding import Finding
from acsearch.redaction import holds_secret
from acsearch.storage.home import Home
from trainers.errors import ConfigError, first_line

_LOW_DISK = 5e9  # bytes
_TIMEOUT = 5  # seconds that a program has to answer
# network file systems, on which the locks of SQLite are not reliable
_SHARED = r"nfs\d*|cifs|smb\w*|lustre|beegfs\w*|gpfs|ceph|glusterfs|panfs|wekafs|fuse\.(sshfs|glusterfs|juicefs|s3fs)"


# -- settings and the folder -------------------------------------------------------------------------------------------


def settings(home: Home) -> list[Finding]:
    """Whether the settings can be read, and a file with a password cannot be read by other users."""
    from acsearch.config.settings import file, given_by_environment, read

    try:
        path, _ = file(), home.settings
    except ConfigError as error:
        return [Finding("settings", "fail", str(error), "fix the file or the variable that it names")]
    variables = ", ".join(given_by_environment())
    found = f"{path or 'no settings file'}; {f'from the environment: {variables}' if variables else 'no variables'}"
    if (
        path is not None
        and any(holds_secret(read(path).get(key) or "") for key in ("storage", "tracking"))
        and path.stat().st_mode & 0o077
    ):
        return [Finding("settings", "warn", f"{path} has a password and others can read it", f"chmod 600 {path}")]
    return [Finding("settings", "ok", found)]


def folder(home: Home) -> list[Finding]:
    """Whether the folder of acsearch can be written, has space, and supports the locks of SQLite."""
    path = home.folder.absolute()
    place = next(one for one in (path, *path.parents) if os.path.lexists(one))
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"acsearch")
    except OSError as error:
        todo = "make it a folder that you may write, or name another: ACSEARCH_HOME"
        return [Finding("home", "fail", f"{place}: {error.strerror}", todo)]
    free = shutil.disk_usage(place).free
    found = f"{path}{'' if path == place else ' (will be made)'}, {free / 1e9:.0f} GB free"
    kind = file_system(place)
    if re.fullmatch(_SHARED, kind) and any(one.startswith("sqlite") for one in (home.storage_url, home.tracking_uri)):
        todo = "use a local disk, or PostgreSQL and an MLflow server (docker/README.md)"
        return [Finding("home", "warn", f"{found}; on {kind}, where SQLite's locks may not hold", todo)]
    if free < _LOW_DISK:
        return [Finding("home", "warn", found, "free some space; acsearch study plan says how much a study needs")]
    return [Finding("home", "ok", found)]


def file_system(path: Path) -> str:
    """The type of the file system that a folder is on, such as `ext4`; empty where it is not known."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    mounts = [(line.split()[1].replace("\\040", " "), line.split()[2]) for line in lines]
    above = [(len(Path(mount).parts), kind) for mount, kind in mounts if path.resolve().is_relative_to(mount)]
    return max(above, key=lambda one: one[0], default=(0, ""))[1]


# -- what is installed -------------------------------------------------------------------------------------------------


def python(home: Home) -> list[Finding]:
    """Whether the version of Python is one that acsearch supports."""
    wanted = importlib.metadata.metadata("acsearch")["Requires-Python"]
    version = platform.python_version()
    if version not in SpecifierSet(wanted, prereleases=True):
        return [Finding("python", "fail", version, f"acsearch needs {wanted}: make an environment with that")]
    return [Finding("python", "ok", f"{version}, acsearch {acsearch.__version__}")]


def packages(home: Home) -> list[Finding]:
    """Whether the packages that acsearch requires are installed in fitting versions; those of extras are optional."""
    required = [Requirement(line) for line in importlib.metadata.requires("acsearch") or ()]
    wrong, right = [], 0
    for one in required:
        extra = one.marker is not None and not one.marker.evaluate({"extra": ""})
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong += [] if extra else [f"{one.name} is missing"]
            continue
        if one.specifier.contains(version, prereleases=True):
            right += 1
        else:
            wrong.append(f"{one.name} {version}, not {one.specifier}")
    if wrong:
        return [Finding("packages", "fail", "; ".join(wrong), "install acsearch anew, in an environment of its own")]
    differ = _untested()
    hint = f"; other versions than tested: {', '.join(differ[:5])}{' ...' if differ[5:] else ''}" if differ else ""
    return [Finding("packages", "ok", f"{right} as required{hint}")]


def _untested() -> list[str]:
    """Packages in other versions than in constraints.txt, which only exists in the repository of acsearch."""
    try:
        text = (Path(acsearch.__file__).parents[1] / "constraints.txt").read_text()
    except OSError:
        return []
    tested = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))
    differ = []
    for name, version in tested.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.split("+")[0] != version.split("+")[0]:
            differ.append(f"{name} {installed}")
    return differ


def torch(home: Home) -> list[Finding]:
    """Whether torch and torchvision can be imported and fit: torchvision requires one exact version of torch."""
    import torch

    torchvision = importlib.import_module("torchvision").__version__
    found = f"torch {torch.__version__}, torchvision {torchvision}"
    wanted = [Requirement(line) for line in importlib.metadata.requires("torchvision") or ()]
    for one in wanted:
        if one.name == "torch" and not one.specifier.contains(torch.__version__, prereleases=True):
            return [Finding("torch", "fail", found, f"torchvision needs torch{one.specifier}: install both together")]
    from torch.version import cuda

    return [Finding("torch", "ok", f"{found}, {f'CUDA {cuda}' if cuda else 'built without CUDA'}")]


# -- what computes -----------------------------------------------------------------------------------------------------


def gpu(home: Home) -> list[Finding]:
    """Whether torch can compute on every GPU that there is."""
    import torch

    driver = _output_lines("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if not torch.cuda.is_available():
        if driver:
            todo = "install a torch built for CUDA, or a newer driver; python -c 'import torch; torch.cuda.init()' says"
            return [Finding("GPU", "warn", f"{driver[0]}, which torch {torch.__version__} cannot use", todo)]
        return [Finding("GPU", "ok", f"none: CPU only, {os.cpu_count()} cores")]
    findings = []
    for device in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(device)
        try:
            square = torch.full((256, 256), 0.5, device=f"cuda:{device}")
            works = float((square @ square).sum()) == 256 * 256 * 64
            free = torch.cuda.mem_get_info(device)[0]
        except RuntimeError as error:
            findings.append(Finding("GPU", "fail", f"{device}: {known.name}: {first_line(error)}", "see nvidia-smi"))
            continue
        kind = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "no bf16"
        found = f"{device}: {known.name}, {free / 1e9:.0f} of {known.total_memory / 1e9:.0f} GB free, {kind}"
        found += f", driver {driver[device].split(', ')[-1]}" if device < len(driver) else ""
        todo = "" if works else "it computes wrong results: have it replaced"
        findings.append(Finding("GPU", "ok" if works else "fail", found, todo))
    return findings


def slurm(home: Home) -> list[Finding]:
    """Whether Slurm is installed, and its controller answers."""
    if shutil.which("sbatch") is None:
        return [Finding("Slurm", "ok", "none here; needed for --engine slurm only")]
    config, partitions = (
        _output_lines("scontrol", "show", "config"),
        _output_lines("sinfo", "--noheader", "--format=%P %a %D"),
    )
    name = re.search(r"^ClusterName\s*=\s*(\S+)", "\n".join(config), re.MULTILINE)
    if name is None:
        return [Finding("Slurm", "warn", "installed, but its controller does not answer", "scontrol ping says why")]
    shown = ", ".join("{} ({}, nodes: {})".format(*line.split()[:3]) for line in partitions)
    if home.on_one_machine:
        shown += "; --engine slurm needs studies in PostgreSQL"
    return [Finding("Slurm", "ok", f"cluster {name[1]}, partitions: {shown or 'none'}")]


def _output_lines(*command: str) -> list[str]:
    """The lines that a program prints; none if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
