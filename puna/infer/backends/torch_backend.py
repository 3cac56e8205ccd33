"""The torch backend: puna.model.Llama on a CPU or a CUDA device, behind the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from puna import hardware
from puna.console import human_bytes
from puna.errors import CheckpointError, MachineError, UsageError
from puna.infer.backends.base import (
    PAGE_POSITIONS,
    Chunk,
    Draw,
    FloatArray,
    IdArray,
    pages_for,
)
from puna.infer.backends.torch_graphs import DecodeGraphs
from puna.infer.backends.torch_pages import PagedCache, lay_out
from puna.model import count
from puna.model.llama import Llama
from puna.model.rotary import rotary_factors
from puna.model.sizes import ModelConfig

LOGIT_BYTES = 64 << 20  # of logits and their log-softmax, both float32, at once while scoring


class TorchBackend:
    """Llama on `device`: cuda where torch finds one, else the CPU.

    Weights, keys and values are of `precision`: on a GPU what suits it, on a CPU float32 unless
    asked. `graphs` has CUDA replay decode steps, `compiled` fuses their kernels, which takes some
    seconds at the first. Raises MachineError for a precision that the
    device lacks, CheckpointError as `llama_from_arrays`.
    """

    def __init__(
        self,
        config: ModelConfig,
        arrays: Mapping[str, FloatArray],
        device: hardware.DeviceKind | None = None,
        *,
        precision: hardware.PrecisionWish = "auto",
        graphs: bool = True,
        compiled: bool = False,
    ) -> None:
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        wish = "fp32" if kind == "cpu" and precision == "auto" else precision
        chosen = hardware.choose_precision(kind, wish).dtype
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[chosen]
        self.model = llama_from_arrays(config, arrays, dtype, torch.device(kind))
        self.name = f"torch {torch.__version__} on {kind}, {chosen}"
        self.vocabulary_size = config.vocabulary_size
        self.page_bytes = count.kv_cache_bytes(config, 1, PAGE_POSITIONS, dtype.itemsize)
        self._cache = PagedCache(config, 0, dtype, torch.device(kind))
        has_graphs = graphs and kind == "cuda"
        self._graphs = DecodeGraphs(self.model, compiled=compiled) if has_graphs else None

    @property
    def free_bytes(self) -> int:
        """What the device has; see Backend.free_bytes."""
        if self._cache.keys.device.type == "cuda":
            return torch.cuda.mem_get_info()[0]
        return hardware.memory_available_bytes()

    def reserve(self, pages: int) -> None:
        """Have that many pages, all empty. Raises MachineError when memory does not suffice."""
        dtype, device = self._cache.keys.dtype, self._cache.keys.device
        self._cache = PagedCache(self.model.config, 0, dtype, device)  # frees the earlier pages
        if self._graphs is not None:
            self._graphs.forget()
        needed = (pages + 1) * self.page_bytes
        if device.type == "cuda":
            torch.cuda.empty_cache()
        available = self.free_bytes
        if needed > available:
            raise MachineError(
                f"keys and values of {pages * PAGE_POSITIONS} tokens need {human_bytes(needed)} "
                f"on {device.type}, {human_bytes(available)} are free",
                hint="serve fewer or shorter texts at once, or take a smaller model",
            )
        self._cache = PagedCache(self.model.config, pages, dtype, device)

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Logits [sum of wanted_rows, vocabulary]; see Backend.step."""
        parts = [block.cpu() for block in self._logits(chunks)]
        logits: FloatArray = torch.cat(parts).numpy()
        return logits

    def choose(self, chunks: Sequence[Chunk]) -> Sequence[int | FloatArray]:
        """Ids where all are the likeliest ones, else logits; see Backend.choose."""
        likeliest = Draw(self.vocabulary_size)
        if all(list(one.draws) == [likeliest] * one.wanted_rows for one in chunks):
            ids: list[int] = self.likeliest(chunks).tolist()
            return ids
        return list(self.step(chunks))

    @torch.inference_mode()
    def hidden(self, chunks: Sequence[Chunk]) -> FloatArray:
        """The wanted rows' final normalised states; see Backend.hidden."""
        for chunk in chunks:
            self._check(chunk)
        past = lay_out(self.model, self._cache, chunks)
        states: FloatArray = self.model.hidden(past.ids, past)[past.wanted].float().cpu().numpy()
        return states

    @torch.inference_mode()
    def likeliest(self, chunks: Sequence[Chunk]) -> IdArray:
        """The id of each wanted row's greatest logit; see Backend.likeliest."""
        ids: IdArray = torch.cat([one.argmax(dim=-1) for one in self._logits(chunks)]).cpu().numpy()
        return ids

    @torch.inference_mode()
    def score(self, chunks: Sequence[Chunk], targets: IdArray) -> npt.NDArray[np.float64]:
        """Log-probability of each wanted row's target; see Backend.score."""
        rest = torch.from_numpy(self._known(targets)).to(self._cache.keys.device)
        scores = []
        for logits in self._logits(chunks):
            aims, rest = rest[: len(logits)], rest[len(logits) :]
            scores.append(-functional.cross_entropy(logits, aims, reduction="none"))
        nats: npt.NDArray[np.float64] = torch.cat(scores).cpu().double().numpy()
        return nats

    def _logits(self, chunks: Sequence[Chunk]) -> Iterator[Tensor]:
        """Float32 logits of the wanted rows on the device, a block of rows at a time."""
        for chunk in chunks:
            self._check(chunk)
        chunks = [chunk for chunk in chunks if len(chunk.ids)]
        if not chunks:
            yield torch.empty(0, self.vocabulary_size)
        elif self._graphs is not None and self._graphs.take(chunks):
            yield self._graphs.logits(self._cache, chunks)
        else:
            past = lay_out(self.model, self._cache, chunks)
            hidden = self.model.hidden(past.ids, past)[past.wanted]
            for rows in torch.split(hidden, max(1, LOGIT_BYTES // (8 * self.vocabulary_size))):
                yield self.model.output(rows).float()

    def _check(self, chunk: Chunk) -> None:
        end = chunk.start + len(chunk.ids)
        context = self.model.config.context_length
        if end > context:
            raise UsageError(
                f"positions up to {end} were asked for, the model's context is {context} tokens"
            )
        self._known(chunk.ids)
        used = chunk.pages[: pages_for(end)]
        reserved = self._cache.pages
        if len(used) < pages_for(end) or (used < 0).any() or (used >= reserved).any():
            raise UsageError(
                f"positions up to {end} need {pages_for(end)} of the {reserved} reserved pages, "
                f"got {used.tolist()}"
            )

    def _known(self, ids: IdArray) -> IdArray:
        """The ids themselves. Raises UsageError for one that the vocabulary lacks."""
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise UsageError(
                f"token ids must lie in 0 .. {self.vocabulary_size - 1}, "
                f"got {int(ids.min())} .. {int(ids.max())}"
            )
        return ids


def llama_from_arrays(
    config: ModelConfig, arrays: Mapping[str, FloatArray], dtype: torch.dtype, device: torch.device
) -> Llama:
    """A Llama that holds the arrays themselves where neither dtype nor device differs.

    Raises CheckpointError when an array is missing, superfluous or of another shape.
    """
    with torch.device("meta"):
        model = Llama(config)
    state = {name: torch.from_numpy(array).to(device, dtype) for name, array in arrays.items()}
    if config.tied_embeddings and "tok_embeddings.weight" in state:
        state["output.weight"] = state["tok_embeddings.weight"]
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights are not those of the recipe's model: {error}") from None
    if config.tied_embeddings:
        model.output.weight = model.tok_embeddings.weight
    cosines, sines = rotary_factors(config, config.unstretched_length)
    model.rotary_cosines, model.rotary_sines = cosines.to(device), sines.to(device)
    return model.eval()
