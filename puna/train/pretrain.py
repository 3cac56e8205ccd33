"""Pretraining: from token shards to weights, resumable at any step (paper 2.3).

One step takes a batch of sequences in the loader's order, adds up the gradients of its
micro-batches, each divided by the batch's count of targets, refuses what is not finite, clips,
and moves the weights by AdamW at the schedule's rate. Everything a later step depends on is in
the checkpoint, so a killed run that goes on takes the same steps as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from puna import config as recipes
from puna import hardware
from puna.console import Console, ProgressBar, human_bytes, human_count, human_duration, silent
from puna.errors import MachineError, TrainingError, missing_package
from puna.model import count, flash
from puna.model.llama import Llama
from puna.tokens.loader import TokenLoader
from puna.tokens.mixture import Mixture, loader_of
from puna.tokens.shards import ShardSet
from puna.tokens.tokenizer import Tokenizer
from puna.train import execution, metrics, state
from puna.train.adamw import build_adamw
from puna.train.interrupt import Interrupt
from puna.train.loss import IGNORE
from puna.train.only_process import only_process
from puna.train.schedule import learning_rate
from puna.train.settings import RunConfig
from puna.weights import checkpoint

SampleText = Callable[[Llama], str]


@dataclass(frozen=True)
class Inputs:
    """What a run is made from. `corpus`, `command` and `recipe` are only written down with it."""

    train: ShardSet | Mixture
    heldout: ShardSet | None
    tokenizer: Tokenizer
    corpus: dict[str, object]
    command: str | None = None
    recipe: object | None = None  # the whole recipe's dataclass, where the run is only a part of it


@dataclass(frozen=True)
class Outcome:
    """How a call of `pretrain` ended; `reason` is "finished" or the signal that stopped it."""

    folder: Path
    step: int
    steps_now: int
    loss: float | None
    reason: str
    exit_code: int


def check_machine(config: RunConfig) -> None:
    """Raise MachineError for what this machine lacks for the run: device, precision, memory."""
    if config.train.tensorboard and not hardware.has_package("tensorboard"):
        raise missing_package("tensorboard", "tensorboard", "train.tensorboard")
    execution.micro_batch(config, execution.decide(config), silent())


def pretrain(
    config: RunConfig,
    inputs: Inputs,
    out: Path,
    console: Console,
    sample: SampleText | None = None,
) -> Outcome:
    """Train in the run folder `out`, from its last checkpoint where it has one.

    `sample` writes a text with the model as it is, for the record. Raises CheckpointError when
    the folder's run is another one or damaged, TrainingError for a loss that is not finite or a
    full disk, MachineError when the model does not fit; each leaves the last checkpoint whole.
    """
    if inputs.tokenizer.vocabulary_size > config.model.vocabulary_size:
        raise TrainingError(
            f"the tokenizer has {inputs.tokenizer.vocabulary_size} pieces, model.vocabulary_size "
            f"is {config.model.vocabulary_size}",
            hint=f"--set model.vocabulary_size={inputs.tokenizer.vocabulary_size}",
        )
    for shards in (inputs.train, inputs.heldout):
        if shards is not None:
            shards.require_tokenizer(inputs.tokenizer)
    with (
        only_process(out),
        metrics.MetricsWriter(
            out / "metrics.jsonl", console, tensorboard=config.train.tensorboard
        ) as journal,
    ):
        done = checkpoint.complete_checkpoints(out / "checkpoints")
        trainer = Trainer(config, inputs, out, console, done[-1] if done else None)
        return trainer.run(journal, sample)


class Trainer:
    """A live run: model, optimizer, loader and progress, with the folder they are saved in."""

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        out: Path,
        console: Console,
        resume_from: Path | None,
    ) -> None:
        if resume_from:
            checkpoint.verify(resume_from)
        recorded = state.recorded_provenance(resume_from) if resume_from else None
        self.config, self.inputs, self.out, self.console = config, inputs, out, console
        self.loader = loader_of(inputs.train, config.model.context_length, config.train.seed)
        self.heldout = self._heldout_loader()
        self.plan = execution.decide(config, recorded.compiled if recorded else None)
        self.micro_batch = (
            recorded.micro_batch
            if recorded and config.train.micro_batch_sequences is None
            else execution.micro_batch(config, self.plan, console)
        )
        state_bytes = 12 * count.parameters(config.model)  # weights, two moments
        checkpoint.require_room_for_checkpoint(out, state_bytes)
        self.provenance = state.Provenance(
            shards=inputs.train.fingerprint,
            tokenizer=inputs.tokenizer.sha256,
            precision=self.plan.precision.dtype,
            compiled=self.plan.compiled,
            micro_batch=self.micro_batch,
            device=self.plan.device.kind,
            threads=self.plan.threads,
            kernels=self.plan.kernels,
        )
        self.progress = state.Progress()
        self.saved_step: int | None = None
        if resume_from:
            self.progress = state.check_same_run(resume_from, config, self.provenance)
        with self._memory_told():
            torch.manual_seed(config.train.seed)
            self.model = Llama(config.model)
            self.model.initialise(torch.Generator().manual_seed(config.train.seed))
            self.model.to(self.plan.device.kind)
            self.optimizer = build_adamw(self.model, config.train)
            if resume_from:
                state.restore(self.model, self.optimizer, resume_from, self.progress)
        self.execution = execution.Execution(self.model, config, self.plan)
        self.flops_per_token = count.training_flops_per_token(config.model)
        if recorded:
            self._tell_changes(recorded)
        elif resume_from:
            console.say(f"weights    those of {resume_from}, AdamW begins anew")

    def run(self, journal: metrics.MetricsWriter, sample: SampleText | None) -> Outcome:
        """Take the steps that are left; say, measure, validate, sample and save on the way."""
        train, first = self.config.train, self.progress.step
        if first >= train.steps:
            self.console.say(f"{self.out} is already trained: {first} of {train.steps} steps done")
            return Outcome(self.out, first, 0, None, "finished", 0)
        recipes.write(self.inputs.recipe or self.config, self.out / "recipe.toml")
        journal.write(self._session(first))
        self._introduce(first)
        clock = _Clock(self.progress)
        loss = None
        with (
            Interrupt() as interrupt,
            self.console.progress(
                train.steps * train.batch_tokens,
                "training",
                "tok",
                initial=first * train.batch_tokens,
            ) as bar,
        ):
            while self.progress.step < train.steps and not interrupt.received:
                record = self._recorded_step(clock)
                loss = record.loss
                journal.write(record)
                _show(bar, record, train.batch_tokens)
                self._look_after(journal, sample, clock)
            if interrupt.received and self.saved_step != self.progress.step:
                self._save(journal, best=False)
        finished = self.progress.step >= train.steps
        stopped = interrupt.received
        reason = "finished" if finished or not stopped else f"stopped by {stopped.name}"
        clock.read()
        progress = self.progress
        journal.write(
            metrics.End(
                step=progress.step,
                tokens=progress.tokens,
                elapsed_seconds=progress.elapsed_seconds,
                core_seconds=progress.core_seconds,
                reason=reason,
            )
        )
        code = 0 if finished or not stopped else 128 + stopped
        self._conclude(reason, finished)
        return Outcome(self.out, progress.step, progress.step - first, loss, reason, code)

    # One step

    def _recorded_step(self, clock: _Clock) -> metrics.Step:
        """One optimizer step, timed, with the progress moved on."""
        began = time.perf_counter()
        step = self.progress.step + 1
        rate = learning_rate(
            step,
            peak=self.config.train.learning_rate,
            warmup_steps=self.config.train.warmup_step_count,
            steps=self.config.train.steps,
            final_fraction=self.config.train.final_learning_rate_fraction,
        )
        with self._memory_told():
            loss, norm = self._step(step, rate)
        seconds = time.perf_counter() - began
        progress, tokens = self.progress, self.config.train.batch_tokens
        progress.step = step
        progress.tokens += tokens
        progress.position += self.config.sequences
        clock.read()
        peak = self.plan.peak
        flops = self.flops_per_token * tokens / seconds
        return metrics.Step(
            step=step,
            tokens=progress.tokens,
            epoch=progress.position / self.loader.windows_per_epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            memory_bytes=self._memory_bytes(),
            elapsed_seconds=progress.elapsed_seconds,
            core_seconds=progress.core_seconds,
            mfu=flops / peak.per_second if peak else None,
        )

    def _step(self, step: int, rate: float) -> tuple[float, float]:
        """Loss in nats a token and gradient norm of one step; the weights have moved.

        Raises TrainingError, before the weights move, when either is not finite.
        """
        windows = torch.from_numpy(
            self.loader.sequences(self.progress.position, self.config.sequences)
        ).to(self.execution.device)
        targets = int((windows[:, 1:] != IGNORE).sum())
        total = torch.zeros((), device=self.execution.device)
        for part in torch.split(windows, self.micro_batch):
            loss = self.execution.loss(part[:, :-1], part[:, 1:]) / targets
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.train.gradient_clip
        )
        loss_value, norm_value = total.item(), norm.item()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise self._not_finite(step, loss_value, norm_value)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss_value, norm_value

    # Validation, samples, checkpoints

    def _look_after(
        self,
        journal: metrics.MetricsWriter,
        sample: SampleText | None,
        clock: _Clock,
    ) -> None:
        """What is due after this step: validation, a sample, a checkpoint."""
        step, train = self.progress.step, self.config.train
        last = step == train.steps
        improved = False
        if self.heldout is not None and (step % train.validate_every == 0 or last):
            improved = self._validate(journal, self.heldout)
        if sample is not None and (step % train.sample_every == 0 or last):
            self.model.eval()
            text = sample(self.model)
            self.model.train()
            journal.write(metrics.Sample(step=step, prompt=train.sample_prompt, text=text))
        clock.read()
        if improved or last or step % train.checkpoint_every == 0:
            self._save(journal, improved)

    @torch.no_grad()
    def _validate(self, journal: metrics.MetricsWriter, heldout: TokenLoader) -> bool:
        """Score the first held-out windows; True when they are the best so far."""
        began = time.perf_counter()
        wanted = -(-self.config.train.validation_tokens // self.config.model.context_length)
        windows = torch.from_numpy(heldout.sequences(0, min(wanted, heldout.windows_per_epoch)))
        total = 0.0
        for part in torch.split(windows.to(self.execution.device), self.micro_batch):
            total += self.execution.score(part[:, :-1], part[:, 1:])
        loss = total / windows[:, 1:].numel()
        journal.write(
            metrics.Validation(
                step=self.progress.step,
                tokens=self.progress.tokens,
                loss=loss,
                bits_per_byte=loss / math.log(2) / heldout.shards.bytes_per_token,
                seconds=time.perf_counter() - began,
            )
        )
        best = self.progress.best_loss
        if best is None or loss < best:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            return True
        return False

    def _save(self, journal: metrics.MetricsWriter, best: bool) -> None:
        began = time.perf_counter()
        step, checkpoints = self.progress.step, self.out / "checkpoints"
        folder = checkpoint.write_checkpoint(
            checkpoints,
            step,
            checkpoint.CheckpointContent(
                weights=state.model_arrays(self.model),
                optimizer=state.optimizer_arrays(self.model, self.optimizer),
                state=state.state_record(self.progress, self.provenance),
                recipe=self.config,
                tokenizer_path=self.inputs.tokenizer.path,
            ),
        )
        self.saved_step = step
        checkpoint.prune(checkpoints, self.config.train.keep_last)
        journal.write(
            metrics.Checkpoint(
                step=step,
                path=str(folder.relative_to(self.out)),
                seconds=time.perf_counter() - began,
                bytes=sum(path.stat().st_size for path in folder.iterdir()),
                best=best,
            )
        )

    def _heldout_loader(self) -> TokenLoader | None:
        """Windows to validate on; None, and said, where the held-out text fills none."""
        heldout, context = self.inputs.heldout, self.config.model.context_length
        if heldout is None:
            self.console.warn("there are no held-out shards: the run is not validated")
            return None
        if heldout.tokens <= context:
            self.console.warn(
                f"the held-out text has {heldout.tokens} tokens, a window needs {context + 1}: the "
                "run is not validated\n  give more text, or a shorter model.context_length"
            )
            return None
        return TokenLoader(heldout, context, seed=0)

    # Telling

    def _session(self, first: int) -> metrics.Session:
        """The facts that open this process's part of the journal."""
        plan = self.plan
        return metrics.Session(
            time=time.time(),
            recipe=recipes.to_table(self.config),
            parameters=count.parameters(self.config.model),
            flops_per_token=self.flops_per_token,
            device=plan.device.kind,
            device_name=plan.device.name,
            threads=plan.threads,
            precision=plan.precision.label,
            compiled=plan.compiled,
            attention=self._attention(),
            train_tokens_per_epoch=self.inputs.train.tokens,
            step=first,
            peak_tflops=plan.peak.per_second / 1e12 if plan.peak else None,
            peak_source=plan.peak.source if plan.peak else None,
            command=self.inputs.command,
            versions=dict(hardware.versions()),
            corpus=dict(self.inputs.corpus),
        )

    def _attention(self) -> str:
        execution = self.execution
        return flash.describe(execution.device.type, execution.dtype, self.config.model.head_dim)

    def _introduce(self, first: int) -> None:
        """Say what will run: size, data, batch, precision, compilation, with the reasons."""
        plan, train, say = self.plan, self.config.train, self.console.say
        tokens = train.steps * train.batch_tokens
        size = count.parameters(self.config.model)
        epochs = tokens / self.inputs.train.tokens
        say(f"model      {human_count(size)} parameters, {size:,} exactly")
        say(
            f"data       {human_count(self.inputs.train.tokens)} tokens, {human_count(tokens)} to "
            f"train on: {epochs:.2f} epochs, {tokens / size:.1f} tokens a parameter"
        )
        if isinstance(self.inputs.train, Mixture):
            say(f"mixture    {self.inputs.train.describe(tokens)}")
        say(
            f"batch      {train.batch_tokens:,} tokens, {self.config.sequences} sequences, "
            f"{self.config.sequences // self.micro_batch} micro-batches; {train.steps} steps"
        )
        say(f"device     {plan.device.name}, {plan.threads} threads")
        say(f"precision  {plan.precision.label} ({plan.precision.reason})")
        say(f"attention  {self._attention()}")
        say(f"compiled   {'yes' if plan.compiled else 'no'} ({plan.compile_reason})")
        if plan.peak:
            say(f"peak       {plan.peak.per_second / 1e12:.2f} TFLOP/s ({plan.peak.source})")
        if first:
            say(f"resumed    after step {first} of {train.steps}")

    def _tell_changes(self, recorded: state.Provenance) -> None:
        """Say what makes a resumed run round otherwise than before."""
        for name in ("device", "threads", "micro_batch", "kernels"):
            was, now = getattr(recorded, name), getattr(self.provenance, name)
            if was not in (now, None):
                self.console.warn(
                    f"{name} was {was} before the resume and is {now}: the losses will differ in "
                    "their last digits from an uninterrupted run's"
                )

    def _conclude(self, reason: str, finished: bool) -> None:
        progress = self.progress
        self.console.say(
            f"{reason} at step {progress.step} of {self.config.train.steps}, "
            f"{human_count(progress.tokens)} tokens, {human_duration(progress.elapsed_seconds)}, "
            f"{progress.core_seconds:,.0f} core-seconds"
        )
        if not finished:
            self.console.say("the same command goes on from here")

    def _memory_bytes(self) -> int:
        if self.plan.device.kind == "cuda":
            return int(torch.cuda.max_memory_allocated())
        return hardware.resident_bytes()

    # What can go wrong

    def _kept(self) -> str:
        done = checkpoint.complete_checkpoints(self.out / "checkpoints")
        return f"the last checkpoint, {done[-1].name}, is whole" if done else "none was saved yet"

    def _not_finite(self, step: int, loss: float, norm: float) -> TrainingError:
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        return TrainingError(
            f"step {step} gave {what}, a finite number was wanted; the weights were not touched, "
            f"and {self._kept()}",
            hint="lower train.learning_rate or lengthen train.warmup_steps, in a new --out",
        )

    @contextmanager
    def _memory_told(self) -> Iterator[None]:
        """Turn running out of memory, which torch says in many ways, into one MachineError."""
        words = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc")
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            text = str(error)
            if isinstance(error, MemoryError) or any(word in text for word in words):
                raise self._out_of_memory() from error
            raise

    def _out_of_memory(self) -> MachineError:
        wanted = count.optimizer_bytes(self.config.model) + count.activation_bytes(
            self.config.model,
            self.micro_batch,
            checkpointing=self.config.train.activation_checkpointing,
        )
        smaller = max(1, self.micro_batch // 2)
        return MachineError(
            f"out of memory in step {self.progress.step + 1}: about {human_bytes(wanted)} were "
            f"wanted for micro-batches of {self.micro_batch} sequences; {self._kept()}",
            hint=f"try --set train.micro_batch_sequences={smaller} or "
            "--set train.activation_checkpointing=full",
        )


class _Clock:
    """Adds this process's wall and core seconds to what the run had cost before."""

    def __init__(self, progress: state.Progress) -> None:
        self._progress = progress
        self._before = replace(progress)
        self._wall, self._core = time.perf_counter(), time.process_time()

    def read(self) -> None:
        """Bring the progress up to now."""
        before = self._before
        self._progress.elapsed_seconds = before.elapsed_seconds + time.perf_counter() - self._wall
        self._progress.core_seconds = before.core_seconds + time.process_time() - self._core


def _show(bar: ProgressBar, record: metrics.Step, tokens: int) -> None:
    bar.update(tokens)
    bar.set_postfix_str(f"step {record.step} loss {record.loss:.3f}", refresh=False)
