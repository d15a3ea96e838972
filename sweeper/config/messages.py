"""Errors of Hydra and OmegaConf as one line for the person at the keyboard."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sweeper.errors import UserError

# What Hydra and OmegaConf raise about what a user wrote, and YAML about a file in conf/.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)
_DETAILS = ("object_type", "reference_type", "^")  # lines about OmegaConf's classes, or that point at a character
# OmegaConf's words for a value of another form, and what the user has to type.
_FORMS = (
    (r"Invalid value assigned: \w+ is not a ListConfig, list or tuple\.", "must be a list, such as [a, b]"),
    (r"Cannot assign \w+ to Dict\[.*\]", "must be names with values, such as {a: b}"),
    (r"Cannot merge DictConfig with ListConfig", "a list such as [a, b] and names with values such as {a: b} differ"),
    (r"field '[\w.]+' is not Optional", "must not be null"),
)
_SEARCH_PATH = "Config search path:"  # and the folders of this machine below it


def in_one_line(error: Exception) -> str:
    """What an error of ours, of Hydra's or of OmegaConf's says, the key first where there is one."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).partition(_SEARCH_PATH)[0].splitlines() if line.strip()]
    key = error.override if isinstance(error, OverrideParseException) else ""
    said = []
    for line in lines:
        if line.startswith("full_key: "):
            key = line.removeprefix("full_key: ")
        elif not line.startswith(_DETAILS):
            said.append(line)
    text = " ".join([f"{key}:", *said] if key else said)
    for theirs, ours in _FORMS:
        text = re.sub(theirs, ours, text)
    return text


@contextmanager
def composing() -> Iterator[None]:
    """Turns whatever Hydra and OmegaConf raise about a command line into a `UserError`."""
    try:
        yield
    except COMPOSITION_ERRORS as error:
        raise UserError(in_one_line(error)) from error
    except Exception as error:
        if not _is_hydras(error):
            raise
        text = f"Hydra cannot read this command line ({error}); look for an override without key or value"
        raise UserError(text) from error


def _is_hydras(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised an error of another kind, as they do for a few senseless overrides (`=5`)."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals["__name__"]).startswith(("hydra.", "omegaconf."))
