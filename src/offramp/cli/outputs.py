"""Files that a verb is to write, looked at before its work: what it takes minutes to find out is not to be lost."""

from __future__ import annotations

from pathlib import Path

from offramp.errors import InvalidInput

_PICTURE = ".png"


def check_output(option: str, path: Path) -> None:
    """Pass where a file can be written; one that is there stays as it is. Raises InvalidInput naming the option."""
    try:
        if path.is_dir():
            raise InvalidInput(option, f"{path} is a folder")
        if not path.absolute().parent.is_dir():
            raise InvalidInput(option, f"the folder of {path} does not exist")
        _try(path)
    except OSError as exc:
        raise InvalidInput(option, f"{path} cannot be written: {exc.strerror}") from exc


def _try(path: Path) -> None:
    try:
        path.open("xb").close()
    except FileExistsError:
        if path.is_file():  # a pipe or a terminal would notice
            path.open("ab").close()
    else:
        path.unlink()


def check_picture(option: str, path: Path) -> None:
    """The same of a picture, whose kind goes by its name."""
    check_output(option, path)
    if path.suffix.lower() != _PICTURE:
        raise InvalidInput(option, f"{path} does not end in {_PICTURE}, as a picture here does")
