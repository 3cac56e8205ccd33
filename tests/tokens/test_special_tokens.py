"""Markup in a text: plain unless asked for, and spaces where each project has them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import sentencepiece_model, tokenizer_json
from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

from puna.errors import TokenizerError
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.formats.tokenizer_json_writer import write_tokenizer_json
from puna.tokens.tokenizer import Tokenizer

PARTS = st.sampled_from(
    ["<s>", "</s>", "<unk>", "<mask>", "<mask>x", "[u]", "<", "a", " ", "  ", " the", "\n", "é"]
)
MARKED = st.lists(PARTS, max_size=10).map("".join)


def added(content: str, **flags: bool) -> dict[str, object]:
    return {"content": content, "special": True, "lstrip": False, "rstrip": False, **flags}


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    return Tokenizer(sentencepiece_model())


@pytest.mark.parametrize("text", ["<s>", "</s>the", "a <unk> b", "<0x41>"])
def test_markup_is_plain_text_unless_asked_for(model, text):
    ids = model.encode(text)
    assert not set(ids) & {model.bos_id, model.eos_id, model.unknown_id}
    assert model.decode(ids) == text


def test_markup_becomes_control_tokens_when_asked_for(model):
    bos, eos = model.bos_id, model.eos_id
    assert model.encode("<s></s>", special=True) == [bos, eos]
    the = model.encode("the")
    assert model.encode("<s>the</s>the", special=True) == [bos, *the, eos, *the]
    assert model.decode([bos, *the, eos]) == "the"
    assert model.decode([bos, *the, eos], special=True) == "<s> the</s>"


def test_marks_around_a_text_come_with_markup_too(model):
    ids = model.encode("the</s>", bos=True, eos=True, special=True)
    assert ids == [model.bos_id, *model.encode("the"), model.eos_id, model.eos_id]


def folder_with(folder, tokens: dict[int, dict[str, object]], **config: object):
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    decoder = {str(token): facts for token, facts in tokens.items()}
    record = {"added_tokens_decoder": decoder, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(record))
    return folder


def test_tokens_beyond_the_model_come_from_the_config(tmp_path):
    marks = {320: added("<|im_start|>"), 321: added("<|im_end|>"), 324: added("[u]", special=False)}
    tokenizer = Tokenizer.load(folder_with(tmp_path, marks, eos_token="<|im_end|>"))
    assert tokenizer.vocabulary_size == 325
    assert tokenizer.eos_id == 321
    assert tokenizer.piece(322) == "[PAD322]"
    the = tokenizer.encode("the")
    assert tokenizer.encode("<|im_end|>the", special=True) == [321, *the]
    assert 321 not in tokenizer.encode("<|im_end|>the")
    assert tokenizer.encode("[u]the") == [324, *the]  # user-defined: found in every text
    assert tokenizer.decode([324, *the]) == "[u] the"


def test_a_control_token_in_the_place_of_a_piece_is_no_piece_any_more(tmp_path):
    plain = Tokenizer(sentencepiece_model())
    pieces = plain.vocabulary.pieces
    token = next(t for t in range(259, 320) if len(pieces[t]) == 2 and pieces[t].isalpha())
    marks = {token: added("<mark>")}
    tokenizer = Tokenizer.load(folder_with(tmp_path, marks))
    text = plain.piece(token)
    assert token in plain.encode(f"x{text}")
    assert token not in tokenizer.encode(f"x{text}")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<mark>", special=True) == [token]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_space_follows_a_mark_in_legacy_tokenizers_only(tmp_path, legacy):
    tokenizer = Tokenizer.load(folder_with(tmp_path, {}, legacy=legacy))
    text = "<s>[INST] the</s>x"
    ids = tokenizer.encode(text, special=True)
    spoken = tokenizer.decode(ids, special=True)
    assert spoken == ("<s> [INST] the</s> x" if legacy else text)
    # A text's own beginning has the space either way.
    assert tokenizer.encode("the") == Tokenizer(sentencepiece_model()).encode("the")


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@given(text=MARKED)
def test_prefixes_are_those_of_tokenizers(scheme, text):
    ours, library = _metaspace(scheme)
    assert ours.encode(text, special=True) == library.encode(text, add_special_tokens=False).ids


_METASPACE: dict[str, tuple[Tokenizer, Engine]] = {}


def _metaspace(scheme: str) -> tuple[Tokenizer, Engine]:
    if scheme not in _METASPACE:
        record = json.loads(write_tokenizer_json(Tokenizer(sentencepiece_model()).vocabulary))
        record["normalizer"] = None
        record["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": scheme,
            "split": False,
        }
        content = json.dumps(record).encode()
        _METASPACE[scheme] = Tokenizer(content), Engine.from_str(content.decode())
    return _METASPACE[scheme]


@pytest.mark.parametrize("kind", ["gpt-2", "llama-bpe"])
@given(text=MARKED)
def test_tokens_that_take_spaces_are_found_as_tokenizers_finds_them(kind, text):
    ours, library = _stripping(kind)
    assert ours.encode(text, special=True) == library.encode(text, add_special_tokens=False).ids


_STRIPPING: dict[str, tuple[Tokenizer, Engine]] = {}


def _stripping(kind: str) -> tuple[Tokenizer, Engine]:
    if kind not in _STRIPPING:
        engine = Engine.from_str(tokenizer_json(kind).decode())
        engine.add_special_tokens(
            [
                AddedToken("<s>", special=True, normalized=False, rstrip=True),
                AddedToken("</s>", special=True, normalized=False, lstrip=True, rstrip=True),
                AddedToken("<mask>", special=True, normalized=False, lstrip=True),
                AddedToken("<mask>x", special=True, normalized=False),
            ]
        )
        engine.add_tokens([AddedToken("[u]", normalized=False)])
        _STRIPPING[kind] = Tokenizer(engine.to_str().encode()), engine
    return _STRIPPING[kind]


def test_a_gguf_s_user_defined_tokens_are_found_in_every_text(model):
    keys = gguf_metadata(model.vocabulary)
    keys["tokenizer.ggml.tokens"] = [*keys["tokenizer.ggml.tokens"], "[u]"]
    keys["tokenizer.ggml.scores"] = [*keys["tokenizer.ggml.scores"], -1000.0]
    keys["tokenizer.ggml.token_type"] = [*keys["tokenizer.ggml.token_type"], 4]
    tokenizer = Tokenizer.from_gguf(keys, model.path)
    the = tokenizer.encode("the")
    assert tokenizer.encode("the[u]the") == [*the, 320, *the]


def test_a_model_s_user_defined_pieces_are_sentencepiece_s_business():
    import sentencepiece

    content = sentencepiece_model(user_defined_symbols="[u],<|x|>")
    library = sentencepiece.SentencePieceProcessor()
    library.load_from_serialized_proto(content)
    tokenizer = Tokenizer(content)
    for text in ("[u]", "the[u]the", " [u] <|x|>", "[u][u]x"):
        assert tokenizer.encode(text) == library.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_asking_for_a_mark_that_is_not_there_is_refused():
    tokenizer = Tokenizer(sentencepiece_model(bos_id=-1, eos_id=-1))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (-1, -1)
    assert not tokenizer.adds_bos
    for wanted in ({"bos": True}, {"eos": True}):
        with pytest.raises(TokenizerError, match="and one was asked for"):
            tokenizer.encode("the", **wanted)
