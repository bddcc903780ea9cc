"""Passwords: what may be one, and its argon2id hash, with the memory and time that RFC 9106 recommends (64 MiB, 3 passes)."""
from __future__ import annotations

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from tfgpt.store.errors import StoreError

LEAST, MOST = 10, 256
"""Characters."""
HASHER = PasswordHasher()
AT_ONCE = threading.Semaphore(2)
"""Each takes 64 MiB and a core, so that many who try to sign in at once would else take all."""
NOBODYS = HASHER.hash(secrets.token_hex())
"""What the password of somebody who is not there is compared with: the time of an answer does not tell who is."""


def hashed(password: str, name: str) -> str:
    """Return the hash of a new password.

    Raises:
        StoreError: one that is too short or long, or that is its user's name.
    """
    if not LEAST <= len(password) <= MOST:
        raise StoreError(f"password: {len(password)} characters; give {LEAST} to {MOST}")
    if password.casefold().strip() == name.casefold() or len(set(password)) < 4:
        raise StoreError("password: is the user's name, or of fewer than 4 different characters; give another")
    with AT_ONCE:
        return HASHER.hash(password)


def is_right(password: str, password_hash: str | None) -> bool:
    """Tell whether a password is the one of a hash, in the same time whether or not there is one (`None`)."""
    with AT_ONCE:
        try:
            return HASHER.verify(password_hash or NOBODYS, password[: MOST + 1]) and password_hash is not None
        except VerificationError:
            return False


def is_outdated(password_hash: str) -> bool:
    """Tell whether a hash was made with less than is recommended now."""
    return HASHER.check_needs_rehash(password_hash)
