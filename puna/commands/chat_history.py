"""What was said so far, as the ids that a model sees: a growing text, or messages in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from puna.infer.engine import Engine

Say = Callable[[str], None]


class History(Protocol):
    """The past of a chat; `ask` changes nothing, `answered` keeps a turn."""

    def ask(self, line: str, reply_tokens: int) -> list[int]:
        """The ids that the model continues after `line`, with room for a reply of some length."""
        ...

    def answered(self, line: str, reply: str) -> None:
        """Keep a turn: what the person wrote, and what the model made of it."""
        ...

    def clear(self) -> None:
        """Forget all turns."""
        ...


class WrittenText:
    """A base model's: one text that person and model write in turns."""

    def __init__(self, engine: Engine, say: Say) -> None:
        self.engine = engine
        self.say = say
        self.text = ""

    def ask(self, line: str, reply_tokens: int) -> list[int]:
        """The ids of the text; where it leaves too little room for a reply, of its end, said."""
        tokenizer = self.engine.tokenizer
        ids = tokenizer.encode(self._with(line), bos=tokenizer.adds_bos)
        context = self.engine.context_length
        room = context - min(reply_tokens, context // 2)
        if len(ids) <= room:
            return ids
        begin = ids[:1] if tokenizer.adds_bos else []
        self.say(
            f"[the model's context is {context} tokens: of the text so far it sees the last "
            f"{room - len(begin)} of {len(ids) - len(begin)}; /reset starts anew]"
        )
        return [*begin, *ids[len(ids) - (room - len(begin)) :]]

    def answered(self, line: str, reply: str) -> None:
        """Append both; the line begins a new one unless it goes on where the text ends."""
        self.text = self._with(line) + reply

    def clear(self) -> None:
        """Start an empty text."""
        self.text = ""

    def _with(self, line: str) -> str:
        is_new_line = self.text and line and not self.text.endswith("\n")
        return f"{self.text}\n{line}" if is_new_line else self.text + line


class Messages:
    """A chat model's: messages in turns, spelled as its own template says."""

    def __init__(self, engine: Engine, say: Say, system: str | None = None) -> None:
        self.engine = engine
        self.say = say
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []

    def ask(self, line: str, reply_tokens: int) -> list[int]:
        """The ids of all messages and of the beginning of a reply.

        Where they leave too little room for one, the oldest turns are left out, and that is said.
        """
        context = self.engine.context_length
        room = context - min(reply_tokens, context // 2)
        asked = {"role": "user", "content": line}
        for skipped in range(0, len(self._turns) + 1, 2):
            messages = [*self._system, *self._turns[skipped:], asked]
            ids = self.engine.tokenizer.apply_chat(messages, add_generation_prompt=True)
            if len(ids) <= room:
                break
        if skipped:
            self.say(
                f"[the model's context is {context} tokens: it does not see the first "
                f"{skipped // 2} of {len(self._turns) // 2} turns any more; /reset starts anew]"
            )
        return ids

    def answered(self, line: str, reply: str) -> None:
        """Keep both messages."""
        self._turns.append({"role": "user", "content": line})
        self._turns.append({"role": "assistant", "content": reply})

    def clear(self) -> None:
        """Forget the turns; what the system said stays."""
        self._turns.clear()
