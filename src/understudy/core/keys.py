"""Keys of clients: 256 random bits, of which only a hash is kept."""

import hashlib
import secrets

_SHOWN = 12  # hexadecimal digits of the hash that stand for a key where something is counted


def new_key() -> str:
    """A key that nobody has."""
    return "us-" + secrets.token_urlsafe(32)


def key_hash(key: str) -> bytes:
    """What is kept of a key. Keys are 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def key_id(hashed: bytes) -> str:
    """What stands for a key where something is counted: the beginning of its hash."""
    return hashed.hex()[:_SHOWN]


def bearer(authorization: str | None) -> str | None:
    """The key in an Authorization header; None where there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
