"""SavedModels that take and give text, a server for them, and a client."""
from __future__ import annotations


def __getattr__(name: str):
    if name != "Client":
        raise AttributeError(f"tfgpt.serving has no {name}; it has Client")
    from tfgpt.serving.client import Client  # when it is first used: the server does without

    return Client
