"""One call of a signature for every protocol: what the caller did wrong becomes an error of the protocol, and nothing else does."""
from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.errors import BadRequestError, ResourceExhaustedError
from tfgpt.serving.presence import Presence


def run_signature(loaded: BatchedModel, signature: str, inputs: dict[str, np.ndarray], presence: Presence | None = None) -> dict[str, np.ndarray]:
    """Return the outputs of a signature by name; inputs left out take their defaults.

    Args:
        loaded: the model, or what a gateway has instead.
        signature: its name.
        inputs: by name.
        presence: of whoever waits for it.

    Raises:
        BadRequestError: the signature or its graph refuses the inputs.
        ResourceExhaustedError: there is no memory for them.
    """
    try:
        return loaded.predict(signature, inputs, presence=presence)
    except KeyError as error:
        raise BadRequestError(error.args[0]) from error
    except tf.errors.ResourceExhaustedError as error:
        raise ResourceExhaustedError(_reason(error)) from error
    except MemoryError as error:
        raise ResourceExhaustedError("There is too little memory for these inputs") from error
    except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
        raise BadRequestError(_reason(error)) from error


def _reason(error) -> str:
    """Return what is wrong in one line; TensorFlow writes headlines before it and a graph's trace behind it."""
    headlines = ("Graph execution error", "defined at", "stack traces unavailable")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not any(headline in line for headline in headlines)]
    return lines[0] if lines else type(error).__name__
