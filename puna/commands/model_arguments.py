"""Arguments that the verbs with a model share: which one, on which backend, how to sample."""

from __future__ import annotations

import argparse
from pathlib import Path

from puna.errors import UsageError
from puna.infer.sampling_params import SamplingParams

BACKENDS = ("auto", "cpu", "cpu-exact", "cpu-float", "numpy", "torch")  # as puna.infer.engine's
DEFAULTS = SamplingParams()


def add_model(
    parser: argparse.ArgumentParser, *, has_meta_flags: bool = False, default: str | None = None
) -> None:
    """MODEL and add_engine's options; with Meta's flags, --ckpt_dir for MODEL.

    With a `default` MODEL may be left out.
    """
    parser.add_argument(
        "model",
        nargs="?" if has_meta_flags or default else None,
        default=default,
        metavar="MODEL",
        help="a model's folder, file or name" + (f"; without it, {default}" if default else ""),
    )
    if has_meta_flags:
        parser.add_argument(
            "--ckpt-dir", "--ckpt_dir", metavar="DIR", help="MODEL, as Meta's release calls it"
        )
    add_engine(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--which, --backend, --kv and the tokenizer."""
    parser.add_argument(
        "--which",
        choices=("latest", "best"),
        default="latest",
        help="checkpoint of a run folder: the last, or the one of lowest validation loss",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="what runs the model; auto says what it takes, and why; cpu-exact computes each row "
        "in one way whatever runs beside it, cpu-float rounds no activations",
    )
    parser.add_argument(
        "--kv",
        choices=("bf16", "int8"),
        default="bf16",
        help="what cpu and cpu-exact keep keys and values in; int8 takes half the memory",
    )
    add_tokenizer(parser)


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """--tokenizer-path, also spelled as Meta's release does."""
    parser.add_argument(
        "--tokenizer-path",
        "--tokenizer_path",
        type=Path,
        metavar="FILE",
        help="the tokenizer, where none lies with the model or another is meant",
    )


def model_of(arguments: argparse.Namespace) -> str:
    """The model meant by MODEL or --ckpt_dir. Raises UsageError for both and for neither."""
    given = [value for value in (arguments.model, arguments.ckpt_dir) if value is not None]
    if len(given) != 1:
        raise UsageError(
            f"one model is wanted, MODEL or --ckpt_dir, found {' and '.join(given) or 'none'}",
            hint="puna cache list shows those that were pulled",
        )
    return str(given[0])


def add_sampling(parser: argparse.ArgumentParser, max_tokens: int = DEFAULTS.max_tokens) -> None:
    """One option for each field of SamplingParams."""
    group = parser.add_argument_group("sampling")
    for name, default, help_text in (
        ("max-tokens", max_tokens, "tokens to generate at most"),
        ("temperature", DEFAULTS.temperature, "0 takes the likeliest token each time"),
        ("top-k", DEFAULTS.top_k, "draw from the K likeliest tokens; 0 is off"),
        ("top-p", DEFAULTS.top_p, "draw from the likeliest tokens that sum to P; 1 is off"),
        ("min-p", DEFAULTS.min_p, "drop tokens below P times the likeliest; 0 is off"),
        ("typical-p", DEFAULTS.typical_p, "draw from tokens of typical surprise; 1 is off"),
        ("repetition-penalty", DEFAULTS.repetition_penalty, "above 1: repeat less; 1 is off"),
        ("presence-penalty", DEFAULTS.presence_penalty, "for tokens generated before; 0 is off"),
        ("frequency-penalty", DEFAULTS.frequency_penalty, "for each time before; 0 is off"),
        ("draft-tokens", DEFAULTS.draft_tokens, "guesses a step from the text so far; 0 is off"),
    ):
        metavar = "N" if isinstance(default, int) else "X"
        group.add_argument(
            f"--{name}", type=type(default), default=default, metavar=metavar, help=help_text
        )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    group.add_argument(
        "--stop-id",
        action="append",
        type=int,
        default=[],
        metavar="ID",
        help="end at this token; may be given several times",
    )
    group.add_argument(
        "--logit-bias",
        action="append",
        type=_bias,
        default=[],
        metavar="ID=X",
        help="make a token likelier or not, -100 to 100; may be given several times",
    )
    group.add_argument(
        "--ignore-eos", action="store_true", help="go on where the model would end the text"
    )


def sampling_params(arguments: argparse.Namespace) -> SamplingParams:
    """The options as SamplingParams. Raises ConfigError for a value out of range."""
    return SamplingParams(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        typical_p=arguments.typical_p,
        repetition_penalty=arguments.repetition_penalty,
        presence_penalty=arguments.presence_penalty,
        frequency_penalty=arguments.frequency_penalty,
        logit_bias=dict(arguments.logit_bias),
        seed=arguments.seed,
        stop=tuple(arguments.stop),
        stop_ids=tuple(arguments.stop_id),
        ignore_eos=arguments.ignore_eos,
        draft_tokens=arguments.draft_tokens,
    )


def _bias(text: str) -> tuple[int, float]:
    """`ID=X` as a pair; what argparse says of another text names the option."""
    token, _equals, value = text.partition("=")  # without one, "" is no number
    try:
        return int(token), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"should be ID=X, as 13=-100, got {text!r}") from None
