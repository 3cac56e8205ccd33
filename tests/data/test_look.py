"""Looking at documents: the same seed shows the same ones, and each is what was put in."""

from collections import Counter
from pathlib import Path

import pytest
from tiny_model import TEXTS

from puna.console import silent
from puna.data.corpus import Corpus, CorpusConfig, build_corpus
from puna.data.document import Document
from puna.data.look import find_in_corpus, from_shards, open_shards, sample_corpus, sample_shards
from puna.errors import DataError
from puna.tokens.shards import ShardsConfig, write_shards
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [f"{number}: {TEXTS[number % len(TEXTS)]}" for number in range(40)]


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory) -> Corpus:
    items = [Document(text, "herd", "CC0", f"{n:02d}") for n, text in enumerate(texts)]
    out = tmp_path_factory.mktemp("look") / "corpus"
    return build_corpus(items, out, CorpusConfig(), silent())


@pytest.fixture(scope="module")
def tokenizer(texts, tmp_path_factory) -> Tokenizer:
    config = TokenizerConfig(vocabulary_size=400)
    return train_tokenizer(texts, tmp_path_factory.mktemp("tokenizer"), config, silent())


@pytest.fixture(scope="module")
def shards(corpus, tokenizer, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for split in ("train", "heldout"):
        pairs = ((one.id, one.text) for one in corpus.documents(split))
        write_shards(pairs, tokenizer, out / split, ShardsConfig(), silent())
    return out


def test_a_seed_chooses_documents_and_another_seed_others(corpus, texts):
    both = ("train", "heldout")
    shown = list(sample_corpus(corpus, both, 5, seed=1))
    assert shown == list(sample_corpus(corpus, both, 5, seed=1))
    assert shown != list(sample_corpus(corpus, both, 5, seed=2))
    assert len({one.id for one in shown}) == 5
    for one in shown:
        assert one.text == texts[int(one.id)]
        assert (one.source, one.licence) == ("herd", "CC0")
        assert one.split == ("heldout" if one.id in ("10", "30") else "train")


def test_every_document_is_as_likely_as_any_other(corpus):
    counts = Counter(
        one.id
        for seed in range(400)
        for one in sample_corpus(corpus, ("train", "heldout"), 4, seed)
    )
    assert len(counts) == 40
    assert min(counts.values()) >= 15
    assert max(counts.values()) <= 75  # mean 40, standard deviation 6


def test_more_than_there_are_shows_all_in_order(corpus):
    assert [one.id for one in sample_corpus(corpus, ("heldout",), 99, 0)] == ["10", "30"]


def test_a_document_is_found_by_its_id_in_the_splits_asked_for(corpus):
    assert find_in_corpus(corpus, ("train", "heldout"), "30").split == "heldout"
    with pytest.raises(DataError, match="has no document '30' in train") as caught:
        find_in_corpus(corpus, ("train",), "30")
    assert "an id looks like 00" in str(caught.value.hint)


def test_shards_give_the_texts_back(corpus, shards, tokenizer):
    opened = open_shards(shards)
    wanted = [(one.text, split) for split in opened for one in corpus.documents(split)]
    shown = list(sample_shards(opened, tokenizer, 99, 0))
    assert [(one.text, one.split) for one in shown] == wanted
    assert all(one.tokens == len(tokenizer.encode(one.text)) + 2 for one in shown)
    assert from_shards(opened["heldout"], "heldout", tokenizer, 1) == shown[-1]


def test_a_number_out_of_range_and_another_tokenizer_are_refused(
    shards, tokenizer, texts, tmp_path
):
    train = open_shards(shards)["train"]
    with pytest.raises(DataError, match="documents 0 to 37, 38 was asked for"):
        from_shards(train, "train", tokenizer, 38)
    other = train_tokenizer(texts, tmp_path, TokenizerConfig(vocabulary_size=380), silent())
    with pytest.raises(DataError, match="another tokenizer"):
        from_shards(train, "train", other, 0)


def test_a_folder_without_shards_is_one_clear_error(tmp_path: Path):
    with pytest.raises(DataError, match="should be a corpus or a folder of token shards"):
        open_shards(tmp_path)
