"""The torch backend: puna.model.Llama on a CPU or a CUDA device, behind the protocol.

The only file of puna.infer that imports torch. Weights and caches are float32; sequences of one
step run one after the other, each through torch's fused attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from puna.errors import CheckpointError, UsageError
from puna.infer.backends.base import (
    IGNORED_TARGET,
    Chunk,
    FloatArray,
    IdArray,
    rows_per_block,
)
from puna.model.attention import KvCache
from puna.model.llama import Llama
from puna.model.rotary import rotary_factors
from puna.model.sizes import ModelConfig


class TorchPast(KvCache):
    """One sequence's cache that also knows its capacity."""

    def __init__(self, config: ModelConfig, capacity: int, device: torch.device) -> None:
        super().__init__(config, 1, capacity, torch.float32, device)
        self.capacity = capacity


class TorchBackend:
    """Llama in float32 on `device`: cuda where torch finds one, else the CPU."""

    def __init__(
        self, config: ModelConfig, arrays: Mapping[str, FloatArray], device: str | None = None
    ) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(chosen)
        self.model = llama_from_arrays(config, arrays).to(self.device).eval()
        self.name = f"torch {torch.__version__} on {chosen}"
        self.vocabulary_size = config.vocabulary_size

    def past(self, capacity: int) -> TorchPast:
        """An empty sequence with room for `capacity` positions."""
        return TorchPast(self.model.config, capacity, self.device)

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Logits [sum of wanted_rows, vocabulary]; see Backend.step."""
        states = []
        for chunk in chunks:
            assert isinstance(chunk.past, TorchPast)
            end = chunk.past.length + len(chunk.ids)
            if end > chunk.past.capacity:
                raise UsageError(
                    f"positions up to {end} were asked for, there is room for {chunk.past.capacity}"
                )
            hidden = self.model.hidden(self._ids(chunk.ids)[None], chunk.past)[0]
            states.append(hidden[len(chunk.ids) - chunk.wanted_rows :])
        logits: FloatArray = self.model.output(torch.cat(states)).float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def score(self, inputs: IdArray, targets: IdArray) -> npt.NDArray[np.float64]:
        """Summed log-probabilities of each row's targets; see Backend.score."""
        hidden = self.model.hidden(self._ids(inputs)).flatten(0, 1)
        flat = torch.as_tensor(targets, device=self.device).flatten()
        scores = []
        block = rows_per_block(self.vocabulary_size)
        for start in range(0, len(flat), block):
            logits = self.model.output(hidden[start : start + block]).float()
            wanted = flat[start : start + block]
            scores.append(
                -functional.cross_entropy(
                    logits, wanted, ignore_index=IGNORED_TARGET, reduction="none"
                )
            )
        per_token = torch.cat(scores).cpu().double().view(targets.shape)
        total: npt.NDArray[np.float64] = per_token.sum(dim=-1).numpy()
        return total

    def _ids(self, ids: IdArray) -> Tensor:
        """The ids on the device. Raises UsageError for one that the vocabulary lacks."""
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise UsageError(
                f"token ids must lie in 0 .. {self.vocabulary_size - 1}, "
                f"got {int(ids.min())} .. {int(ids.max())}"
            )
        return torch.as_tensor(ids, dtype=torch.int64, device=self.device)


def llama_from_arrays(config: ModelConfig, arrays: Mapping[str, FloatArray]) -> Llama:
    """A Llama that holds `arrays` themselves, without a second copy in memory.

    Raises CheckpointError when an array is missing, superfluous or of another shape.
    """
    with torch.device("meta"):
        model = Llama(config)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if config.tied_embeddings and "tok_embeddings.weight" in state:
        state["output.weight"] = state["tok_embeddings.weight"]
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights are not those of the recipe's model: {error}") from None
    if config.tied_embeddings:
        model.output.weight = model.tok_embeddings.weight
    cosines, sines = rotary_factors(config, config.unstretched_length)
    model.rotary_cosines, model.rotary_sines = cosines, sines
    return model
