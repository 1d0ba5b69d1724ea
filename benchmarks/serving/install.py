"""The peers, each in a virtual environment of its own under runs/peers/NAME, in the versions that were compared.

python -m benchmarks.serving.install [NAME ...]

Every environment gets the same onnxruntime and NumPy as this one; nothing of offramp is in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PEERS = Path("runs/peers")
_DEBIAN_PYTHON = Path("/usr/bin/python3")


class Peer(NamedTuple):
    """What pip installs, and the Python that has to run it."""

    requirements: tuple[str, ...]
    python: Path = Path(sys.executable)


# PyTriton's bundled stub looks for the interpreter that Debian ships and fails with others of the same version.
KNOWN: Mapping[str, Peer] = {
    "mosec": Peer(("mosec==0.9.8", "aiohttp==3.14.5")),
    "kserve": Peer(("kserve==0.21.0",)),
    "mlserver": Peer(("mlserver==1.7.1",)),
    "litserve": Peer(("litserve==0.2.19",)),
    "bentoml": Peer(("bentoml==1.4.39",)),
    "ray": Peer(("ray[serve,serve-grpc]==2.60.0",)),
    "pytriton": Peer(("nvidia-pytriton==0.7.0",), _DEBIAN_PYTHON),
}


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether or not it is there."""
    return PEERS.absolute() / name / "bin" / "python"


def is_installed(name: str) -> bool:
    """Whether a peer's environment is complete."""
    return (PEERS / name / "installed").exists()


def install(name: str) -> None:
    """Make a peer's environment anew. Raises CalledProcessError where pip fails."""
    peer, folder = KNOWN[name], PEERS / name
    if peer.python == Path(sys.executable):
        venv.create(folder, clear=True)
    else:
        make = [str(peer.python), "-m", "venv", "--clear", "--without-pip", str(folder)]
        subprocess.run(make, check=True)  # noqa: S603
    pip = [sys.executable, "-m", "pip", "--python", str(python_of(name)), "install", "--quiet"]
    shared = [f"{package}=={version(package)}" for package in ("onnxruntime",)]
    subprocess.run([*pip, "numpy", *shared, *peer.requirements], check=True)  # noqa: S603
    (folder / "installed").touch()


def main(argv: Sequence[str] | None = None) -> int:
    """Install the named peers, or all; 0 where each of them could be."""
    parser = argparse.ArgumentParser("python -m benchmarks.serving.install", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(KNOWN))
    parser.add_argument("--again", action="store_true", help="also those that are there")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(KNOWN):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; known are {', '.join(KNOWN)}")
    failed = []
    for name in args.names or KNOWN:
        if is_installed(name) and not args.again:
            print(f"{name}: is there")
            continue
        try:
            install(name)
        except (subprocess.CalledProcessError, OSError) as exc:
            print(f"{name}: {exc}", file=sys.stderr)
            failed.append(name)
        else:
            print(f"{name}: installed in {PEERS / name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
