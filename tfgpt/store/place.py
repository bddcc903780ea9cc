"""Where a machine's store is: as given, or in the environment's TFGPT_STORE, or ~/.tfgpt/store."""
from __future__ import annotations

import getpass
import os
from pathlib import Path

from tfgpt.store.errors import StoreError

VARIABLE = "TFGPT_STORE"
DEFAULT = "~/.tfgpt/store"


def place_of(given: str = "") -> Path:
    """Return the folder of the store; `given` empty = the environment's, else the default."""
    return Path(given or os.environ.get(VARIABLE) or DEFAULT).expanduser()


def open_store(given: str = ""):
    """Return the `Store` of this machine.

    Raises:
        FileNotFoundError: there is none.
        StoreError, RuntimeError: as `Store`.
    """
    from tfgpt.store.store import Store  # here, since it imports the database's packages

    return Store(place_of(given))


def user_of(given: str = "") -> str:
    """Return who acts; `given` empty = the machine's user.

    Raises:
        StoreError: the machine does not know its user.
    """
    if given:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container may have a number and no name
        raise StoreError(f"owner: this machine has no name for its user ({error}); say who you are with --by NAME") from error
