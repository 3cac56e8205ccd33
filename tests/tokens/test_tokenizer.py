"""Text -> ids -> text, against the sentencepiece library and vectors from other projects."""

import json

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from token_texts import SHARED

from puna.errors import SchemaError, TokenizerError
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import cut_at_spaces

HARD_TEXTS = (
    "",
    " ",
    "   ",
    " leading",
    "trailing ",
    "two  spaces",
    "tab\there",
    "line\nline\r\nline\rline",
    "\0",
    "nul\0inside",
    "🦙🏽\u200d🚀 emoji",
    "\ufeffbyte order mark",
    "e\u0301 combining, \u00e9 composed",
    "高原の草を食べる",
    "<s>markup</s><unk><0x41>",
    " \u2047 ",
    "\u2585 the trainer's reserved character",
    "\U0010ffff last code point \ufffd \uffff",
    "1234567890",
)
PIECES_OF_TEXT = st.sampled_from(
    [*"abc .,\t\n\r\0é高🦙", "  ", "the", " the", "<s>", "\u2047", "\u2585", "\u3000", "\xa0"]
)
# U+2581 is SentencePiece's own mark for a space: the documented exception.
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\u2581"))
TEXTS = ANY_TEXT | st.lists(PIECES_OF_TEXT).map("".join)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)) == text


@given(text=TEXTS)
def test_any_text_comes_back_from_llamas_own_tokenizer(llama_tokenizer, text):
    assert llama_tokenizer.decode(llama_tokenizer.encode(text)) == text


def test_the_space_mark_is_read_as_a_space(tokenizer):
    assert tokenizer.encode("a\u2581b") == tokenizer.encode("a b")
    assert tokenizer.decode(tokenizer.encode("a\u2581b")) == "a b"


def test_a_character_comes_with_its_last_byte(tokenizer):
    prefix, *four_bytes = tokenizer.encode("🦙")
    stream = tokenizer.stream()
    assert [stream.push(token) for token in [prefix, *four_bytes]] == ["", "", "", "", "🦙"]


def test_after_flush_a_stream_starts_a_new_text(tokenizer):
    stream = tokenizer.stream()
    for text in (" one", "🦙", " two"):
        parts = [stream.push(token) for token in tokenizer.encode(text)]
        assert "".join(parts) + stream.flush() == text


@given(
    words=st.lists(st.text(st.sampled_from("ab \u2581\u3000\n高"), max_size=6), max_size=40),
    limit=st.integers(1, 30),
)
def test_cutting_at_spaces_loses_nothing_and_changes_no_id(tokenizer, words, limit):
    text = " ".join(words)
    parts = cut_at_spaces(text, limit)
    assert " ".join(parts) == text
    assert all(parts) or text == ""
    joined = [token for part in parts for token in tokenizer.encode(part)]
    assert joined == tokenizer.encode(text)


def test_parts_are_within_the_limit_where_spaces_allow():
    text = "four " * 500
    assert max(len(part) for part in cut_at_spaces(text.strip(), 64)) <= 64
    unbroken = "x" * 300
    assert cut_at_spaces(f"a {unbroken} b", 64) == ["a", unbroken, "b"]


@pytest.mark.parametrize("length", [1999, 2000, 2001, 40_000])
def test_long_texts_give_the_librarys_ids(tokenizer, texts, length):
    library = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    text = "\n".join(texts)[:length]
    assert len(text) == length
    assert tokenizer.encode(text) == library.encode(text)


def test_long_text_without_a_space_is_encoded_too(tokenizer):
    text = "高原" * 3000
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_equal_those_of_other_projects(llama_tokenizer):
    vectors = json.loads((SHARED / "vectors" / "llama2_spm.json").read_text(encoding="utf-8"))
    assert len(vectors) >= 75
    for vector in vectors:
        ids = llama_tokenizer.encode(vector["text"], bos=vector["bos"])
        assert ids == vector["ids"], (vector["source"], vector["text"])


def test_special_ids_are_llamas(tokenizer, llama_tokenizer):
    for each in (tokenizer, llama_tokenizer):
        assert (each.unknown_id, each.bos_id, each.eos_id) == (0, 1, 2)
        assert [each.piece(token) for token in range(3)] == ["<unk>", "<s>", "</s>"]
        assert [each.byte_of(3 + byte) for byte in range(256)] == list(range(256))
        assert each.is_control(1)
        assert not each.is_control(0)


def test_ids_may_come_as_an_array(tokenizer):
    assert tokenizer.decode(np.array(tokenizer.encode("the llama"), dtype=np.uint16)) == "the llama"


def test_the_bytes_of_pieces_make_the_text_that_goes_on(tokenizer, llama_tokenizer):
    for each in (tokenizer, llama_tokenizer):
        for text in ("the llama", " the", '{"name"', "高🦙\x00", "▁"):
            made = b"".join(map(each.bytes_of, each.encode(text, goes_on=True)))
            assert made == text.replace("▁", " ").encode()
            prompt = each.encode("A")
            assert each.decode([*prompt, *each.encode(text, goes_on=True)]) == "A" + made.decode()
        assert each.bytes_of(each.bos_id) == b""
    with pytest.raises(TokenizerError, match="token ids go from 0"):
        tokenizer.bytes_of(tokenizer.vocabulary_size)


@pytest.mark.parametrize("code", [0xD800, 0xDFFF])
@pytest.mark.parametrize("before", ["ab", "word " * 1000])
def test_a_lone_surrogate_is_refused_with_its_position(tokenizer, code, before):
    surrogate = chr(code)
    with pytest.raises(TokenizerError, match=rf"character {len(before)} .*U\+{code:04X}"):
        tokenizer.encode(before + surrogate)
    with pytest.raises(TokenizerError, match=rf"text 1: character {len(before)} "):
        tokenizer.encode_many(["fine", before + surrogate])


@pytest.mark.parametrize("wrong", [-1, 480, 10**20])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, wrong):
    with pytest.raises(TokenizerError, match=f"from 0 to 479, got {wrong} at position 2"):
        tokenizer.decode([1, 5, wrong])
    for refuse in (tokenizer.piece, tokenizer.stream().push, tokenizer.is_control):
        with pytest.raises(TokenizerError, match=f"from 0 to 479, got {wrong}"):
            refuse(wrong)


@given(content=st.binary(max_size=200))
def test_bytes_that_are_no_tokenizer_are_refused(tokenizer, content):
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        Tokenizer(content, tokenizer.path)


def test_a_tokenizer_cut_short_is_refused(tokenizer, tmp_path):
    content = tokenizer.path.read_bytes()
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: byte \d+: "):
        Tokenizer.load(file)


def test_a_missing_tokenizer_says_where_and_how_to_make_one(tmp_path):
    with pytest.raises(TokenizerError, match=r"there is no tokenizer at .*nothing") as raised:
        Tokenizer.load(tmp_path / "nothing")
    assert "puna tokenizer train" in str(raised.value.hint)


def test_a_folder_must_hold_the_file_its_manifest_names(tokenizer, llama_tokenizer, tmp_path):
    for name in ("tokenizer.model", "manifest.json"):
        (tmp_path / name).write_bytes((tokenizer.path.parent / name).read_bytes())
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256
    (tmp_path / "tokenizer.model").write_bytes(llama_tokenizer.path.read_bytes())
    with pytest.raises(TokenizerError, match=r"is not the file that manifest\.json"):
        Tokenizer.load(tmp_path)
    assert Tokenizer.load(tmp_path / "tokenizer.model").sha256 == llama_tokenizer.sha256


def test_a_newer_manifest_is_refused_and_a_foreign_one_is_not_ours(tokenizer, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    for foreign in ("not json", "[1]", '{"schema": "puna.checkpoint", "version": 1}'):
        (tmp_path / "manifest.json").write_text(foreign)
        assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256
    (tmp_path / "manifest.json").write_text('{"schema": "puna.tokenizer", "version": 99}')
    with pytest.raises(SchemaError, match="version 99"):
        Tokenizer.load(tmp_path)
