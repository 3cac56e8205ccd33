"""Training: LLaMA's settings, nothing dropped, the same file every time, clear refusals."""

import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sentencepiece
from token_texts import sentences

from puna.console import Console, silent
from puna.errors import ConfigError, DataError, TokenizerError
from puna.tokens import training
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer

# Fields of sentencepiece_model.proto: ModelProto and its TrainerSpec and NormalizerSpec.
TRAINER_SPEC, NORMALIZER_SPEC = 2, 3
INPUT, MODEL_PREFIX, VOCABULARY_SIZE, INPUT_FORMAT, THREADS = 1, 2, 4, 7, 16
# What paper_facts 1.3 lists, by field number.
BPE = 2
LLAMA_TRAINER = {
    3: BPE,
    4: 32000,
    10: struct.pack("<f", 0.99995),  # character_coverage
    11: 200_000_000,  # input_sentence_size
    18: 4192,  # max_sentence_length
    19: 1,  # shuffle_input_sentence
    20: 16,  # max_sentencepiece_length
    21: 1,  # split_by_unicode_script
    22: 1,  # split_by_whitespace
    23: 1,  # split_by_number
    25: 1,  # split_digits
    26: 1,  # allow_whitespace_only_pieces
    33: 1,  # hard_vocab_limit
    35: 1,  # byte_fallback
    40: 0,  # unk_id
    41: 1,  # bos_id
    42: 2,  # eos_id
    43: 2**64 - 1,  # pad_id -1
    44: " \u2047 ".encode(),  # unk_surface
}
LLAMA_NORMALIZER = {1: b"identity", 3: 1, 4: 0}  # dummy prefix kept, extra whitespace kept
# What a file need not say; 14, 15, 17 and 32 are settings of unigram models and word vocabularies.
DEFAULTS = {
    14: 1_000_000, 15: struct.pack("<f", 0.75), 17: 2, 32: 1,
    45: b"<unk>", 46: b"<s>", 47: b"</s>", 48: b"<pad>", 51: bytes(4),
    19: 1, 21: 1, 22: 1, 23: 1, 33: 1, 40: 0, 41: 1, 42: 2, 43: 2**64 - 1,
}  # fmt: skip


def wire_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of a protocol buffer message."""

    def varint() -> int:
        value = shift = 0
        while True:
            byte = stream.read(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    stream = io.BytesIO(message)
    while stream.tell() < len(message):
        tag = varint()
        kind = tag & 7
        read = {0: varint, 2: lambda: stream.read(varint()), 5: lambda: stream.read(4)}[kind]
        yield tag >> 3, read()


def spec_of(tokenizer: Tokenizer, which: int) -> dict[int, int | bytes]:
    fields = dict(wire_fields(tokenizer.path.read_bytes()))
    return dict(wire_fields(fields[which]))


def train(texts, folder, **config) -> Tokenizer:
    values = {"vocabulary_size": 480, **config}
    return train_tokenizer(texts, folder, TokenizerConfig(**values), silent())


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.piece(token) for token in range(tokenizer.vocabulary_size)]


def test_the_settings_in_the_file_are_llamas(tokenizer):
    found = {**DEFAULTS, **spec_of(tokenizer, TRAINER_SPEC)}
    wanted = {**LLAMA_TRAINER, VOCABULARY_SIZE: 480}
    assert {number: found.get(number) for number in wanted} == wanted
    normalizer = spec_of(tokenizer, NORMALIZER_SPEC)
    assert {number: normalizer.get(number) for number in LLAMA_NORMALIZER} == LLAMA_NORMALIZER


def test_the_whole_trainer_spec_equals_the_one_inside_llamas_own_file(tokenizer, llama_tokenizer):
    differ = (INPUT, MODEL_PREFIX, VOCABULARY_SIZE, INPUT_FORMAT, THREADS)
    ours, llamas = (
        {**DEFAULTS, **spec_of(each, TRAINER_SPEC)} for each in (tokenizer, llama_tokenizer)
    )
    for number in {*ours, *llamas} - {*differ}:
        # Zero, false and empty may be written or left out.
        assert (ours.get(number) or None) == (llamas.get(number) or None), number


def test_digits_stay_apart(tokenizer):
    merges = training.pieces_by_kind(tokenizer)["merges"]
    assert len(merges) > 50
    assert not [piece for piece in merges if any(character.isdigit() for character in piece)]
    assert tokenizer.encode("1789")[1:] == [tokenizer.encode(digit)[-1] for digit in "1789"]


def test_digits_may_be_joined_on_request(texts, tmp_path):
    merges = training.pieces_by_kind(train(texts, tmp_path, split_digits=False))["merges"]
    assert "1789" in "".join(merges)


def test_the_same_text_gives_the_same_file_in_another_process(texts, tokenizer, tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, pathlib\n"
        "from puna.console import silent\n"
        "from puna.tokens.training import TokenizerConfig, train_tokenizer\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "texts = json.loads((folder / 'texts.json').read_text())\n"
        "train_tokenizer(texts, folder / 'out', TokenizerConfig(vocabulary_size=480), silent())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Tokenizer.load(tmp_path / "out").sha256 == tokenizer.sha256
    assert (done.stdout, done.stderr) == ("", "")


def test_a_long_line_counts_like_its_words_on_short_lines(texts, tmp_path):
    lines = [line for text in texts for line in text.split("\n") if "  " not in line]
    assert len(lines) > 200
    apart = train(["\n".join(lines)], tmp_path / "apart")
    joined = train([" ".join(lines)], tmp_path / "joined")
    assert vocabulary(joined) == vocabulary(apart)
    summary = json.loads((tmp_path / "joined" / "manifest.json").read_text())["trained_on"]
    assert (summary["lines"], summary["lines_cut_at_a_space"]) == (1, 1)
    assert summary["lines_cut_inside_a_word"] == 0


LONG_LINES = ("zebu " * 2000, "zebu" * 2500, "高原" * 1500, "\u2585zebu " * 300)


@pytest.mark.parametrize("long", LONG_LINES)
def test_lines_that_sentencepiece_would_skip_are_learnt_from(texts, tmp_path, long):
    tokenizer = train([*texts, *[long] * 20], tmp_path)
    assert any(piece.strip("\u2581") in ("zebu", "高原") for piece in vocabulary(tokenizer))


def test_sentencepiece_alone_would_have_skipped_them(texts):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*"\n".join(texts).split("\n"), *["zebu " * 2000] * 20]),
        model_writer=model,
        vocab_size=480,
        minloglevel=2,
        model_type="bpe",
        byte_fallback=True,
        max_sentence_length=4192,
    )
    library = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert "\u2581zebu" not in [library.id_to_piece(i) for i in range(480)]


def test_every_line_fits_the_limit_and_no_character_is_lost():
    texts = [("高 " * 30 + "é" * 9000 + " ") * 3, "x " * 5000, "\r\n\t a  b" * 2000]
    lines = list(training._TrainingLines(texts))
    assert max(len(line.encode()) for line in lines) <= training.MAX_LINE_BYTES
    for character in "高éxab\r\t":
        wanted = sum(text.count(character) for text in texts)
        assert sum(line.count(character) for line in lines) == wanted


def test_the_manifest_tells_what_was_made_from_what(texts, tokenizer):
    manifest = json.loads((tokenizer.path.parent / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["schema"], manifest["version"]) == ("puna.tokenizer", 1)
    assert manifest["sha256"] == tokenizer.sha256
    assert manifest["config"]["vocabulary_size"] == 480
    trained_on = manifest["trained_on"]
    assert trained_on["documents"] == len(texts)
    assert trained_on["bytes"] == sum(len(text.encode()) for text in texts)
    facts = manifest["facts"]
    sample = texts[::20]
    tokens = sum(len(tokenizer.encode(text)) for text in sample)
    density = sum(len(text.encode()) for text in sample) / tokens
    assert facts["bytes_per_token"] == pytest.approx(density, abs=5e-4)
    assert facts["characters"] + facts["merges"] + 256 + 3 == 480
    assert len(facts["longest_pieces"][0]) == max(
        len(piece) for piece in training.pieces_by_kind(tokenizer)["merges"]
    )


def test_the_same_inputs_are_not_trained_again(texts, tmp_path):
    first = train(texts, tmp_path)
    written = (tmp_path / "tokenizer.model").stat().st_mtime_ns
    stderr = io.StringIO()
    config = TokenizerConfig(vocabulary_size=480)
    again = train_tokenizer(iter(texts), tmp_path, config, Console(stderr=stderr))
    assert again.sha256 == first.sha256
    assert (tmp_path / "tokenizer.model").stat().st_mtime_ns == written
    assert "using it" in stderr.getvalue()


def test_other_inputs_are_an_error_that_names_what_differs(texts, tmp_path):
    train(texts, tmp_path)
    with pytest.raises(TokenizerError, match=r"config\.vocabulary_size is 480 there, 500 here\n"):
        train(texts, tmp_path, vocabulary_size=500)
    with pytest.raises(TokenizerError, match=r"other inputs: text is .* there, .* here\n"):
        train(texts[1:], tmp_path)


def test_a_file_without_a_manifest_is_not_overwritten(texts, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"precious")
    with pytest.raises(TokenizerError, match="is there already"):
        train(texts, tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == b"precious"


def test_too_little_text_says_how_many_pieces_are_possible(tmp_path):
    with pytest.raises(TokenizerError, match="too small for 4,096 pieces") as raised:
        train(["hello world"], tmp_path / "first", vocabulary_size=4096)
    possible = int(str(raised.value.hint).split("vocabulary_size=")[1].split()[0])
    train(["hello world"], tmp_path / "second", vocabulary_size=possible)
    with pytest.raises(TokenizerError, match="too small"):
        train(["hello world"], tmp_path / "third", vocabulary_size=possible + 1)


def test_too_many_characters_say_how_many_pieces_they_need(tmp_path):
    text = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 300))
    with pytest.raises(TokenizerError, match="at least 560 pieces"):
        train([text], tmp_path / "first", character_coverage=1.0)
    assert train([text], tmp_path / "second", character_coverage=1.0, vocabulary_size=560)


@pytest.mark.parametrize("texts", [[], [""], ["", "\n\n"]])
def test_no_text_is_an_error(tmp_path, texts):
    with pytest.raises(TokenizerError, match="no text to train"):
        train(texts, tmp_path)


def test_a_lone_surrogate_names_its_document(texts, tmp_path):
    with pytest.raises(TokenizerError, match="document 1: character 3 is a lone surrogate"):
        train([texts[0], "abc\ud800", *texts], tmp_path)


def test_an_error_of_the_corpus_arrives_as_it_was(texts, tmp_path):
    def broken() -> Iterator[str]:
        yield from texts
        raise DataError("the corpus ends in the middle")

    with pytest.raises(DataError, match="ends in the middle"):
        train(broken(), tmp_path)


def test_an_unwritable_place_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")

    def never() -> Iterator[str]:
        raise AssertionError("the text was read")
        yield ""

    with pytest.raises(TokenizerError, match="cannot be written to"):
        train(never(), tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "value"),
    [("vocabulary_size", 259), ("character_coverage", 0.5), ("max_piece_length", 0)],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"tokenizer\.{name} must be .* got {value}"):
        TokenizerConfig(**{name: value})


def test_talk_is_ours_alone(tmp_path, capfd):
    stderr = io.StringIO()
    config = TokenizerConfig(vocabulary_size=400)
    train_tokenizer(["\n".join(sentences(2000))], tmp_path, config, Console(stderr=stderr))
    assert capfd.readouterr() == ("", "")
    assert "tokenizer: 400 pieces from 1 documents" in stderr.getvalue()
