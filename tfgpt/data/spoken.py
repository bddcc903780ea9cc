"""Commands spoken by a machine (espeak-ng, with noise) and what a recogniser that expects any English (pocketsphinx) takes them for: its n-best list.

A second of work each; pocketsphinx holds Python's lock while it works, so several processes of this module share it. None of them needs TensorFlow.
"""
from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import wave
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfgpt.recipe import RecipeError

RATE = 16_000
"""Samples a second that the recogniser's model wants."""
VOICES = ("en-us", "en-us+f2", "en-us+klatt", "en-us+klatt2")
"""Of espeak-ng; of the others most words are taken for some other word."""
WORDS_A_MINUTE = (120, 135, 150)
LOUDEST, NOISE = 8000.0, 30.0
"""The largest sample of a command, and the standard deviation of the noise beside it."""
SILENCE = 4800
"""Samples before a command and behind it."""
LONGEST_SECONDS = 60
"""Of a recording that is taken for one utterance."""
MOST = 100
"""Hypotheses in a list."""
MOST_PATHS = 1000
"""Through the recogniser's lattice, many of which have the same words."""
PROCESSES = min(os.cpu_count() or 1, 8)


def check_speech(key: str, speaks: bool = True) -> None:
    """Refuse to begin where there is nothing to speak or to recognise with.

    Args:
        key: of the recipe, or name of the function, that needs it.
        speaks: whether something is to be spoken too.

    Raises:
        RecipeError: pocketsphinx or espeak-ng is not installed.
    """
    if importlib.util.find_spec("pocketsphinx") is None:
        raise RecipeError(f"{key}: needs the package pocketsphinx, which is not installed; pip install 'tfgpt[speech]', or give records with hypotheses")
    if speaks and shutil.which("espeak-ng") is None:
        raise RecipeError(f"{key}: needs the program espeak-ng, which is not installed; apt-get install espeak-ng, or give records with hypotheses")


def hypotheses_of(texts: Sequence[str], key: str, advance: Callable[[], None] = lambda: None) -> list[list[str]]:
    """Speak texts, and return what a recogniser takes each for: its n-best list, the best first; an empty text where it hears nothing.

    Each text has a voice, a speed and a noise of its own, which follow from the text alone.

    Args:
        texts: any; each is one utterance.
        key: of the recipe, for errors.
        advance: called after each text.

    Raises:
        RecipeError: pocketsphinx or espeak-ng is not installed.
        RuntimeError: one of them fails.
    """
    check_speech(key)
    idle: queue.SimpleQueue = queue.SimpleQueue()

    def ask(text):
        worker = idle.get()
        try:
            worker.stdin.write(json.dumps(text) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{key}: {text[:80]!r} could not be spoken or recognised; the messages above say why")
        idle.put(worker)
        return json.loads(answer)

    count, found = max(min(PROCESSES, len(texts)), 1), []
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(count) as threads:
        for _ in range(count):
            idle.put(stack.enter_context(_worker()))
        for answer in threads.map(ask, texts):
            found.append(answer)
            advance()
    return found


@contextlib.contextmanager
def _worker() -> Iterator[subprocess.Popen]:
    """Start this module as a process of its own, which answers a line of JSON by another, and end it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-m", "tfgpt.data.spoken"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def spoken(text: str) -> np.ndarray:
    """Return a text as espeak-ng says it, with some noise, int16 [samples] at 16 kHz."""
    draw = np.random.default_rng(zlib.crc32(text.encode()))
    voice, speed = draw.choice(VOICES), draw.choice(WORDS_A_MINUTE)
    said = subprocess.run(["espeak-ng", "-v", str(voice), "-s", str(speed), "--stdin", "--stdout"], input=text.encode(), capture_output=True, check=True).stdout
    samples = np.pad(_samples(io.BytesIO(said)), SILENCE)
    loudest = max(float(np.abs(samples).max()), 1.0)
    return (samples * (LOUDEST / loudest) + draw.normal(0.0, NOISE, len(samples))).astype(np.int16)


def read_wav(path: str | Path) -> np.ndarray:
    """Return a recording of one utterance, int16 [samples] at 16 kHz, its channels' mean.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no wav file with samples of 16 bits, empty, or longer than a minute.
    """
    with open(path, "rb") as file:
        try:
            samples = _samples(file)
        except (wave.Error, EOFError) as error:
            raise ValueError(f"{path}: is no wav file of 16-bit samples ({error}); make one of it, as by: ffmpeg -i IN -ac 1 -ar 16000 OUT.wav") from error
    if not 0 < len(samples) <= LONGEST_SECONDS * RATE:
        raise ValueError(f"{path}: lasts {len(samples) / RATE:.1f} seconds; give one utterance, of {LONGEST_SECONDS} seconds at most")
    return np.clip(samples, -32768, 32767).astype(np.int16)


def _samples(file) -> np.ndarray:
    """Return what a wav file holds at 16 kHz, its channels' mean, float64 [samples]."""
    from scipy.signal import resample_poly  # comes with scikit-learn

    with wave.open(file) as sound:
        if sound.getsampwidth() != 2:
            raise wave.Error(f"{8 * sound.getsampwidth()} bits")
        channels, rate = sound.getnchannels(), sound.getframerate()
        data = sound.readframes(sound.getnframes())                                       # espeak-ng writes no true length into what it streams
    samples = np.frombuffer(data[: len(data) // (2 * channels) * 2 * channels], "<i2").reshape(-1, channels).mean(axis=1)
    return resample_poly(samples, RATE, rate) if rate != RATE and len(samples) else samples


class Recogniser:
    """pocketsphinx with the model of US English that it ships, and its language model of any text.

    >>> import importlib.util
    >>> len(Recogniser().hypotheses(np.zeros(16_000, np.int16))) > 0 if importlib.util.find_spec("pocketsphinx") else True
    True
    """

    def __init__(self):
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=RATE, loglevel="FATAL")

    def hypotheses(self, samples: np.ndarray) -> list[str]:
        """Return what one utterance, int16 [samples] at 16 kHz, is taken for: the recogniser's answer, then other paths through its lattice, the best first.

        Their scores are on no common scale with that of the answer, which is searched for in another way, and so are left out.
        """
        decoder = self._decoder
        if not len(samples):
            return [""]
        decoder.reinit_feat()  # or what it knows of the loudness of those before would change the list
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        best, found = decoder.hyp(), {}
        if best is None or not best.hypstr:
            return [""]
        paths = itertools.chain([best], itertools.islice(decoder.nbest() or (), MOST_PATHS))
        for path in paths:
            if path is None or len(found) == MOST:
                break
            found.setdefault(path.hypstr)
        return [text for text in found if text]


def main() -> None:
    """Answer each line of standard input, a text as JSON, by a line with its list."""
    recogniser = Recogniser()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(recogniser.hypotheses(spoken(json.loads(line)))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
