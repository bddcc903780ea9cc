"""What a training runs on: one device, the devices of one machine, or several machines, by `tf.distribute`."""
from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfgpt.recipe import RecipeError, TrainConfig
from tfgpt.recipe_checks import check

logger = logging.getLogger(__name__)

WORKER_IS_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
"""What TensorFlow raises in the workers that are left, by the moment at which one is gone."""


SHARED_STAGES = ("pretrain", "train")
"""Stages of a run that all workers do together, in order; the chief alone does the others."""


class Devices:
    """The devices of a training, and this process's part among the workers.

    Every worker runs the same program on the same shared folder. The chief alone writes; the others train along.

    Args:
        kind: `train.strategy`: `auto` = multi_worker where `TF_CONFIG` names several workers, mirrored where there are several GPUs, else one device.
        lanes: `train.lanes`; see `set_threads`.

    Raises:
        RecipeError: the devices or workers that `kind` needs are not there.

    >>> devices = Devices("auto")
    >>> devices.replicas, devices.is_chief
    (1, True)
    """

    def __init__(self, kind: str = "auto", lanes: int = 1):
        set_threads(lanes)
        workers = cluster_workers()
        if kind == "auto":  # the devices are not asked for where there are workers: TensorFlow wants its cluster before it starts
            kind = "multi_worker" if len(workers) > 1 else "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one"
        check(kind == "multi_worker" or len(workers) < 2, f"train.strategy: {kind} takes one process, and TF_CONFIG names {len(workers)}; set it to "
              "multi_worker, or unset TF_CONFIG")
        self.worker, self.workers = 0, max(len(workers), 1)
        if kind == "multi_worker":
            check(workers, "train.strategy: multi_worker needs the environment variable TF_CONFIG, which names the cluster's workers and this one's "
                  "number; see the README, \"More than one device\"")
            self.strategy = _multi_worker_strategy()
            self.worker = workers.index((self.strategy.cluster_resolver.task_type, self.strategy.cluster_resolver.task_id))
        elif kind == "mirrored":
            self.strategy = _mirrored_strategy()
        elif kind == "tpu":
            self.strategy = _tpu_strategy()
        else:
            self.strategy = tf.distribute.get_strategy()
        self._called = ""
        self._total = tf.function(self._sum_over_workers, autograph=False)

    @property
    def replicas(self) -> int:
        """Devices over which a global batch is dealt, of all workers together."""
        return self.strategy.num_replicas_in_sync

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.worker == 0

    def check_batch(self, config: TrainConfig) -> None:
        """Check that a global batch can be dealt.

        Raises:
            RecipeError: it cannot.
        """
        parts = self.replicas * config.accumulate
        of = f"{self.replicas} devices" + (f" in {config.accumulate} micro steps each (train.accumulate)" if config.accumulate > 1 else "")
        check(config.global_batch_size % parts == 0, f"train.global_batch_size: {config.global_batch_size} sequences cannot be dealt to {of}; "
              f"set it to a multiple of {parts}")

    def deal(self, batches: Callable[..., tf.data.Dataset], step: int, global_batch_size: int):
        """Return endless batches from a step on for `fit`: each replica gets its rows of every global batch, those of replica 0 first.

        Args:
            batches: called with the step and, by name, `worker` and `workers`; gives the worker's rows.
            step: the first.
            global_batch_size: sequences of all replicas together.
        """
        if self.replicas == 1:
            return batches(step)
        rows = global_batch_size // self.replicas

        def of_worker(context):
            mine = batches(step, worker=context.input_pipeline_id, workers=context.num_input_pipelines)
            # several workers would not know the size of a batch, nor that there is always one more
            return mine.rebatch(rows, drop_remainder=True).apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

        return self.strategy.distribute_datasets_from_function(of_worker)

    def evaluated(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Return evaluation batches such that `fit` deals each sequence to one replica of one worker."""
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.with_options(options)

    def from_chief(self, number: int) -> int:
        """Return the chief's number on every worker; each waits here until all have come."""
        return self.total(number if self.is_chief else 0)

    def call(self, stage: str) -> None:
        """Let the workers that wait for the chief do a stage, one of `SHARED_STAGES`, with it."""
        self._called = stage
        self.from_chief(SHARED_STAGES.index(stage) + 1)

    def dismiss(self) -> None:
        """Let the workers that still wait end, where there is nothing more to train."""
        if self._called != SHARED_STAGES[-1]:
            self._called = SHARED_STAGES[-1]
            self.from_chief(0)

    def wait_for_call(self) -> str:
        """Wait until the chief calls to a stage, and return its name; empty where it dismisses, or where the last such stage is done."""
        if self._called != SHARED_STAGES[-1]:
            number = self.from_chief(0)
            self._called = SHARED_STAGES[number - 1] if number else SHARED_STAGES[-1]
            return self._called if number else ""
        return ""

    def total(self, number: int) -> int:
        """Return the sum of a number over the workers; each waits here until all have come."""
        if self.workers == 1:
            return number
        return int(self._total(tf.constant(number, tf.int64))) * self.workers // self.replicas

    def _sum_over_workers(self, number):
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(tf.identity, args=(number,)), axis=None)

    @contextlib.contextmanager
    def lost_workers_told(self) -> Iterator[None]:
        """Tell a lost worker as what it is.

        Raises:
            RuntimeError: a worker is gone.
        """
        try:
            yield
        except WORKER_IS_GONE as error:
            if self.workers == 1:
                raise
            raise RuntimeError(f"worker {self.worker} of {self.workers}: another worker of the cluster is gone; start all workers again with the same "
                               f"command, and they go on from the newest checkpoint ({str(error).splitlines()[0][:200]})") from error


def cluster_workers() -> list[tuple[str, int]]:
    """Return the job and number of every worker that `TF_CONFIG` names, the chief first; empty without it.

    Raises:
        RecipeError: it is not what TensorFlow takes.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return []
    try:
        config = json.loads(text)
        cluster, (job, number) = config["cluster"], (config["task"]["type"], int(config["task"]["index"]))
        workers = [(name, place) for name in ("chief", "worker") for place in range(len(cluster.get(name, ())))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"TF_CONFIG: {text[:80]} is not a cluster and a task such as "
                          '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}; correct or unset it') from error
    if (job, number) not in workers:
        raise RecipeError(f"TF_CONFIG: task {job} {number} is none of its cluster's {len(workers)} workers; correct its index, from 0")
    return workers


def set_threads(lanes: int) -> None:
    """Let operations have one thread each in all of this process, where there are lanes; a warning if TensorFlow has begun with more.

    Args:
        lanes: `train.lanes`.
    """
    if lanes == 1 or tf.config.threading.get_intra_op_parallelism_threads() == 1:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError:  # as where a notebook has computed something before: slower, and nothing else
        logger.warning("train.lanes: TensorFlow has begun with more than one thread within an operation; start a new process for all of the speed")


@functools.cache
def _mirrored_strategy():
    """Return the one of this process: two over the same devices would number their reductions alike and mix them up."""
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")])


@functools.cache
def _multi_worker_strategy():
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu_strategy():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise RecipeError(f"train.strategy: tpu finds no TPU ({str(error).splitlines()[0]}); set it to auto, or TPU_NAME to its name or address") from error
    return tf.distribute.TPUStrategy(resolver)
