"""What each file format says, read by us and by the programs that define the format."""

import json
from pathlib import Path

import pytest
import sentencepiece
from small_tokenizers import (
    SPECIAL,
    TEMPLATE,
    byte_level_engine,
    ranks,
    sentencepiece_model,
    tokenizer_bin,
    tokenizer_json,
)

from puna.errors import TokenizerError
from puna.tokens.formats.sentencepiece_model import read_sentencepiece, write_sentencepiece
from puna.tokens.formats.tiktoken_ranks import SPECIAL_TOKENS
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.vocabulary import PieceType

HERE = Path("here")


def library_of(content: bytes) -> sentencepiece.SentencePieceProcessor:
    library = sentencepiece.SentencePieceProcessor()
    library.load_from_serialized_proto(content)
    return library


def test_a_model_s_pieces_are_those_that_the_library_reads():
    vocabulary = read_sentencepiece(sentencepiece_model(), HERE).vocabulary
    library = library_of(sentencepiece_model())
    ids = range(library.get_piece_size())
    assert list(vocabulary.pieces) == [library.id_to_piece(token) for token in ids]
    assert list(vocabulary.scores) == [library.get_score(token) for token in ids]
    for token in ids:
        kind = vocabulary.types[token]
        assert library.is_byte(token) == (kind == PieceType.BYTE)
        assert library.is_control(token) == (kind == PieceType.CONTROL)
        assert library.is_unknown(token) == (kind == PieceType.UNKNOWN)
    assert (vocabulary.bos_id, vocabulary.eos_id) == (library.bos_id(), library.eos_id())
    assert (vocabulary.unknown_id, vocabulary.padding_id) == (library.unk_id(), library.pad_id())


def test_a_written_model_is_what_protocol_buffers_reads():
    definition = pytest.importorskip(
        "sentencepiece.sentencepiece_model_pb2", reason="needs the package protobuf"
    )
    original = read_sentencepiece(sentencepiece_model(), HERE).vocabulary
    model = definition.ModelProto.FromString(write_sentencepiece(original))
    assert [piece.piece for piece in model.pieces] == list(original.pieces)
    assert [piece.score for piece in model.pieces] == list(original.scores)
    assert [piece.type for piece in model.pieces] == list(original.types)
    assert model.trainer_spec.model_type == 2
    assert model.trainer_spec.vocab_size == 320
    assert model.trainer_spec.byte_fallback
    assert (model.trainer_spec.bos_id, model.trainer_spec.pad_id) == (1, -1)
    assert model.normalizer_spec.add_dummy_prefix
    assert not model.normalizer_spec.remove_extra_whitespaces
    assert read_sentencepiece(write_sentencepiece(original), HERE).vocabulary == original


def test_other_names_of_the_marks_are_found():
    content = sentencepiece_model(bos_piece="<begin>", pad_id=3, unk_surface="??")
    tokenizer, library = Tokenizer(content), library_of(content)
    assert tokenizer.piece(tokenizer.bos_id) == "<begin>"
    assert tokenizer.vocabulary.padding_id == library.pad_id() == 3
    assert tokenizer.decode([tokenizer.unknown_id]) == library.decode([library.unk_id()]) == "??"


def test_a_tokenizer_bin_says_what_its_model_does():
    model, exported = Tokenizer(sentencepiece_model()), Tokenizer(tokenizer_bin())
    assert exported.format == "llama2.c"
    assert exported.vocabulary == model.vocabulary


def test_ranks_are_followed_by_meta_s_special_tokens():
    tokenizer = Tokenizer(ranks())
    count = len(ranks().splitlines())
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 256
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id"}
    named |= {9: "eot_id", 2: "reserved_special_token_0", 255: "reserved_special_token_250"}
    for place, name in named.items():
        assert tokenizer.piece(count + place) == f"<|{name}|>"
        assert tokenizer.is_control(count + place)
    assert tokenizer.stop_ids == {count + 1, count + 9}
    assert tokenizer.adds_bos


def test_ranks_with_other_line_ends_are_the_same():
    assert Tokenizer(ranks().replace(b"\n", b"\r\n")).vocabulary == Tokenizer(ranks()).vocabulary


def test_a_file_is_told_by_its_content(tmp_path):
    contents = {"SentencePiece": sentencepiece_model(), "tiktoken": ranks()}
    contents |= {"llama2.c": tokenizer_bin(), "tokenizer.json": b"\n " + tokenizer_json()}
    for name, content in contents.items():
        (tmp_path / "weights.bin").write_bytes(content)
        assert Tokenizer.load(tmp_path / "weights.bin").format == name


def test_a_gguf_is_pointed_to_its_model(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(TokenizerError, match="is a GGUF model"):
        Tokenizer.load(tmp_path / "model.gguf")


def json_with(**parts: object) -> bytes:
    return json.dumps({**json.loads(tokenizer_json("smollm")), **parts}).encode()


def test_merges_may_be_pairs_or_words():
    model = json.loads(tokenizer_json("smollm"))["model"]
    words = [" ".join(pair) for pair in model["merges"]]
    one, other = json_with(), json_with(model={**model, "merges": words})
    assert Tokenizer(one).vocabulary == Tokenizer(other).vocabulary


def test_the_template_may_stand_in_a_sequence_as_llama_3_has_it():
    template = json.loads(tokenizer_json("smollm"))["post_processor"]
    parts = [{"type": "ByteLevel", "add_prefix_space": True}, template]
    tokenizer = Tokenizer(json_with(post_processor={"type": "Sequence", "processors": parts}))
    assert tokenizer.adds_bos
    assert tokenizer.piece(tokenizer.bos_id) == "<|endoftext|>"


def test_older_names_of_defaults_mean_the_same():
    plain = {"type": "ByteLevel", "add_prefix_space": False}  # use_regex came later
    tokenizer = Tokenizer(json_with(pre_tokenizer=plain))
    assert tokenizer.vocabulary.pre_tokenizer == "gpt-2"
    record = json.loads(tokenizer_json("llama-bpe"))
    del record["pre_tokenizer"]["pretokenizers"][0]["invert"]
    tokenizer = Tokenizer(json.dumps(record).encode())
    assert tokenizer.vocabulary.pre_tokenizer == "llama-bpe"


def test_without_a_config_the_ends_are_the_usual_ones():
    tokenizer = Tokenizer(json_with(post_processor=None))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (-1, 0)
    assert not tokenizer.adds_bos
    assert tokenizer.stop_ids == {0, 2}


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_gpt_2_s_pair_of_files(names, tmp_path):
    model = json.loads(byte_level_engine("gpt-2").to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (tmp_path / names[0]).write_text(json.dumps(model["vocab"]))
    (tmp_path / names[1]).write_text("\n".join(lines), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.format == "GPT-2"
    assert not tokenizer.adds_bos
    assert tokenizer.bos_id == tokenizer.eos_id == SPECIAL.index("<|endoftext|>")
    for text in ("the llama", "  a\n\nb", "1789 é"):
        assert (
            tokenizer.encode(text)
            == byte_level_engine("gpt-2").encode(text, add_special_tokens=False).ids
        )
    (tmp_path / names[1]).write_text("a b c\n")
    with pytest.raises(TokenizerError, match="line 1 should be a pair"):
        Tokenizer.load(tmp_path)


def test_small_files_of_older_folders_count_too(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 320}')
    marks = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "bos_token": "<s>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(marks))
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    config = {"chat_template": templates, "add_bos_token": None, "add_eos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_id == 320
    assert (tokenizer.adds_bos, tokenizer.adds_eos) == (True, True)
    assert tokenizer.chat_template == TEMPLATE
    # The file alone knows nothing of them.
    assert Tokenizer.load(tmp_path / "tokenizer.model").eos_id == 2


def test_a_model_goes_before_a_tokenizer_json_but_ranks_do_not(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    assert Tokenizer.load(tmp_path).format == "SentencePiece"
    (tmp_path / "tokenizer.model").write_bytes(ranks())
    assert Tokenizer.load(tmp_path).format == "tokenizer.json"


def test_a_panic_in_rust_is_an_error_of_ours():
    from puna.tokens.encoders import guarded

    panic = type("PanicException", (BaseException,), {})  # as pyo3 names and derives it
    with (
        pytest.raises(TokenizerError, match=r"here is refused by tok.*: index out"),
        guarded(HERE),
    ):
        raise panic("index out of bounds\nat a line of Rust")
    with pytest.raises(KeyboardInterrupt), guarded(HERE):
        raise KeyboardInterrupt
