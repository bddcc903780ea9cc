"""What the `train` section of a recipe may say: how long, how fast, in which precision, and how often one looks."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from tfgpt.recipe_checks import check, check_at_least, check_choices


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over a run, counted in optimizer steps: a linear rise, then what `kind` says."""

    kind: Literal["cosine", "linear", "inverse_sqrt", "constant", "wsd"] = "cosine"
    """After warm-up: cosine or linear = down to floor at the end; inverse_sqrt = with the root of the step, never below floor; constant =
    stays at peak; wsd = stays at peak, then falls linearly to floor over the last decay_steps (warm-up, stable, decay)."""
    peak: float = 1.0e-3
    """Highest learning rate, reached when warm-up ends."""
    warmup_steps: int = 50
    """Optimizer steps of linear rise from 0; 0 = none."""
    floor: float = 1.0e-4
    """Learning rate at the end: what the last step is still a step above, so that a floor of 0 wastes none; not used by constant."""
    decay_steps: int = 0
    """Optimizer steps of the fall at the end, for wsd, the first of which is still at the peak; 0 = a fifth of train.steps."""

    def __post_init__(self):
        check_choices("train.schedule", self)
        for key in ("warmup_steps", "decay_steps"):
            check_at_least(f"train.schedule.{key}", getattr(self, key), 0)
        check(0 < self.peak < math.inf, f"train.schedule.peak: {self.peak} is not a number above 0")
        check(0 <= self.floor <= self.peak, f"train.schedule.floor: {self.floor} is not between 0 and train.schedule.peak ({self.peak}); "
                                            "lower the floor or raise the peak")
        check(self.kind == "wsd" or not self.decay_steps, f"train.schedule.decay_steps: {self.decay_steps} is for train.schedule.kind: wsd, and it is "
              f"{self.kind}; leave it out")


@dataclass(frozen=True)
class TrainConfig:
    """How long and how the model is trained, and how often one looks at it."""

    steps: int = 1000
    """Optimizer steps."""
    global_batch_size: int = 16
    """Sequences in an optimizer step, over all replicas and micro steps."""
    lanes: int = 1
    """Parts of a micro step that are computed side by side, each on a core of its own, with one thread within an operation. For models so small that dealing an
    operation out to threads takes longer than doing it: of width 128 two lanes took two thirds of the time on two cores. The gradient stays the same."""
    accumulate: int = 1
    """Micro steps into which each replica cuts its batch, one after the other, to save memory; the gradient stays the same."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of matrix products in training; weights, sums, norms, softmax and evaluation are always float32. float16 has a loss scale that adapts itself."""
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "lion", "muon"] = "adamw"
    """sgd has momentum; muon = orthogonalized momentum for the matrices of attention and MLP, AdamW for the rest; learns from scratch in fewer steps."""
    beta_1: float = 0.9
    """Share of the old in the running mean of gradients, the momentum of sgd; not used by adafactor."""
    beta_2: float = 0.99
    """Share of the old in the running mean of squared gradients; of adamw, adam, lion and muon. 0.999 suits runs of many thousand steps."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices; embeddings count as matrices, biases and layer norms do not. 0 = none."""
    l2: float = 0.0
    """Weight of half the squared matrices in what is minimized (not decoupled); 0 = none."""
    l2_start: float = 0.0
    """Weight of half the squared distance to the weights that a fine-tune starts from (L2-SP), against forgetting; new weights are free. 0 = none. Set
    weight_decay to 0 beside it, which draws to 0 instead."""
    layer_decay: float = 1.0
    """What the learning rate is multiplied by from each layer to the one below: heads and the last norm have all of it, embeddings and positions the least.
    1 = the same for all; 0.8 to 0.95 is usual."""
    unfreeze_every: int = 0
    """Optimizer steps after which one more block, from the top, begins to be trained, and at last the embeddings (gradual unfreezing); at first the topmost
    of what is trained learns alone. 0 = all are trained from the first step."""
    label_smoothing: float = 0.0
    """Share of each target's probability spread over the vocabulary; 0 = none. The losses reported are without it."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax's denominator, against drifting logits; 1e-4 is usual, 0 = none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 = not clipped."""
    max_skipped: int = 10
    """Steps in a row whose gradients are not finite, all of them skipped, after which the run ends with an error."""
    ema: float = 0.0
    """Share of the old in a running average of the weights, which is what is then evaluated and kept as the model; 0.999 is usual, 0 = none."""
    early_stopping: int = 0
    """Evaluations in a row without a lower validation loss that end the training; 0 = train.steps are taken in any case."""
    keep_best: bool = True
    """The model is that of the evaluation with the lowest validation loss; false = of the last step."""
    evaluate_every: int = 100
    """Steps between two evaluations on the validation part, each with samples and a checkpoint."""
    checkpoint_every: int = 0
    """Steps between two further checkpoints; 0 = at evaluations alone."""
    log_every: int = 10
    """Steps between two points of the training curves in TensorBoard."""
    sample_prompts: tuple[str, ...] = ("",)
    """Prompts continued at every evaluation, shown as text in TensorBoard; "" starts a document."""
    sample_tokens: int = 48
    """Tokens in such a continuation."""
    profile: tuple[int, ...] = ()
    """First and last step of which a profile is written for TensorBoard, such as [20, 25]; empty = none."""
    keep_checkpoints: int = 2
    """The newest checkpoints kept; older ones are removed. With 2 or more there is one from before the weights blow up, if they do right at a checkpoint."""
    strategy: Literal["auto", "mirrored", "multi_worker", "tpu"] = "auto"
    """Over which devices a global batch is dealt: mirrored = all of this machine; multi_worker = those of all workers that the environment variable
    TF_CONFIG names; tpu = a TPU's cores. auto = multi_worker with TF_CONFIG, mirrored with several GPUs, else one device. The losses stay the same."""
    recompute: bool = False
    """Keep each block's input alone and compute the rest anew on the way back: less memory, a third more work."""
    jit_compile: bool = False
    """Compile the whole train step with XLA: for GPUs and TPUs; on CPUs it was slower. An evaluation is not compiled, since its batches differ in size."""

    def __post_init__(self):
        check_choices("train", self)
        for key in ("steps", "global_batch_size", "accumulate", "lanes", "max_skipped", "evaluate_every", "log_every", "sample_tokens", "keep_checkpoints"):
            check_at_least(f"train.{key}", getattr(self, key), 1)
        check(0 < self.layer_decay <= 1, f"train.layer_decay: {self.layer_decay} is not in (0, 1]; 1 gives every layer the same learning rate")
        for key in ("weight_decay", "l2", "l2_start", "unfreeze_every", "z_loss", "clip_norm", "early_stopping", "checkpoint_every"):
            check_at_least(f"train.{key}", getattr(self, key), 0)
        for key in ("label_smoothing", "beta_1", "beta_2", "ema"):
            check(0 <= getattr(self, key) < 1, f"train.{key}: {getattr(self, key)} is not in [0, 1)")
        check(not self.profile or (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]),
              f"train.profile: {list(self.profile)} is not a first and a last step, such as [20, 25]")
        check(not self.profile or self.profile[0] <= self.steps, f"train.profile: {list(self.profile)} begins behind the last of {self.steps} train.steps, and "
              "nothing would be written; name steps before it")
        check(not self.early_stopping or self.keep_best, f"train.early_stopping: {self.early_stopping} with train.keep_best false would keep the worse weights "
              "that it stops at; leave train.keep_best true")
        check(self.schedule.decay_steps <= self.steps, f"train.schedule.decay_steps: {self.schedule.decay_steps} is more than train.steps ({self.steps}); "
              "set it to fewer")
