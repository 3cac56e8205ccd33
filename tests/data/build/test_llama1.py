"""recipes/data/llama1.toml itself, all seven sources: small ones by hand, and real samples."""

import json
from pathlib import Path

import pytest
from build_runs import results
from llama1_inputs import PAGES, REFERENCES, write_all
from public_samples import SAMPLES, needs_samples

from puna.console import silent
from puna.data.build import recipe as recipes
from puna.data.build.documents import read_all
from puna.data.build.executor import Executor, Here
from puna.data.build.local import LocalProcesses
from puna.data.build.run import build
from puna.data.build.work import Options
from puna.data.quality import perplexity
from puna.data.report import gather, render
from puna.errors import ConfigError, DataError
from puna.tokens.mixture import Mixture

RECIPE = Path("recipes/data/llama1.toml")
SMALL = (
    "heldout_every=4",
    "tokenizer.train.vocabulary_size=400",
    "settings.classifier.min_pages=10",
    "settings.perplexity.training.vocabulary_size=120",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("built")
    return out, run(raw, out)


def run(
    raw: dict[str, Path], out: Path, *settings: str, executor: Executor | None = None, **options
) -> dict:
    inputs = [f'sources.{name}.inputs=["{path}"]' for name, path in raw.items()]
    recipe = recipes.load(RECIPE, [*inputs, *SMALL, *settings])
    return build(recipe, Options(str(out), **options), executor or Here(), silent())


def stages_of(record: dict, source: str) -> dict[str, dict]:
    return {one["stage"]: one for one in record["sources"][source]["stages"]}


def last_texts(out: Path, pattern: str) -> list[str]:
    names = sorted(map(str, (out / "work").glob(pattern)))
    return [document.text for document in read_all(names)]


def dropped(stage: dict) -> dict[str, int]:
    return {reason: facts["documents"] for reason, facts in stage["dropped"].items()}


def test_common_crawl_goes_through_ccnet_and_keeps_what_wikipedia_refers_to(built):
    out, record = built
    found = stages_of(record, "commoncrawl")
    assert list(found) == ["read", "lines", "language", "perplexity", "classifier"]
    assert found["lines"]["lines"]["dropped"] == PAGES + 1  # the line that every page has
    assert dropped(found["language"]) == {"other language": 1}
    counts = found["perplexity"]["counts"]
    assert sum(counts.values()) == PAGES
    assert counts["en head"] == counts["en middle"] == 0.3 * PAGES  # percentiles 30 and 60
    assert dropped(found["perplexity"]) == {"perplexity tail": counts["en tail"]}
    assert sum(found["classifier"]["counts"].values()) == found["perplexity"]["documents"]
    kept = last_texts(out, "commoncrawl/04-classifier-*/*.zst")
    assert len(kept) == REFERENCES
    assert not any("discount" in text for text in kept)


def test_each_source_is_treated_as_the_paper_says(built):
    out, record = built
    assert [len(one["stages"]) for one in record["sources"].values()] == [5, 1, 2, 1, 2, 1, 1]
    assert dropped(stages_of(record, "github")["read"]) == {"licence not permitted": 1}
    assert dropped(stages_of(record, "github")["exact"]) == {"exact duplicate": 1}
    assert all("Copyright" not in text for text in last_texts(out, "github/01-exact-*/*.zst"))
    assert dropped(stages_of(record, "wikipedia")["read"]) == {"redirect": 1, "not an article": 1}
    assert all("cite web" not in text for text in last_texts(out, "wikipedia/00-read-*/*.zst"))
    (book,) = stages_of(record, "books")["books"]["examples"]["in another book"]
    assert ("excerpt" in book["id"], "whole" in book["detail"]) == (True, True)
    for text in last_texts(out, "arxiv/00-read-*/*.zst"):
        assert text.startswith("\\section{One}")
        assert r"\{a\}" in text
        assert not {"front matter", "note", "bibitem"} & set(text.split())
    for text in last_texts(out, "stackexchange/00-read-*/*.zst"):
        assert 0 < text.index("score 10") < text.index("score 9")


def test_the_mixture_is_table_1_s_and_a_model_can_read_it(built):
    out, _ = built
    mixed = Mixture.open(out, verify=True)
    assert list(mixed.shares.values()) == pytest.approx(
        [0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02]
    )
    page = render(gather(str(out)))
    for words in ("en head", "score 0.9", "in another book", "unlike references"):
        assert words in page, words


def test_models_are_as_good_as_those_made_by_hand_and_say_what_they_are_of(built):
    out, record = built
    (folder,) = (out / "work" / "commoncrawl").glob("model-perplexity-*")
    facts = json.loads((folder / "en" / "model.json").read_text())
    assert (facts["sample_documents"], facts["is_all_text"]) == (PAGES, True)
    model = perplexity.load(str(folder / "en"))
    articles = last_texts(out, "wikipedia/00-read-*/*.zst")
    assert max(model.perplexities(articles)) < facts["head_below"]
    lm, classifier = record["sources"]["commoncrawl"]["models"].values()
    assert lm == facts
    assert classifier == {"positive": REFERENCES, "negative": 12}


def test_a_rerun_does_nothing_and_processes_give_the_same_bytes(built, raw, tmp_path):
    out, _ = built
    before = results(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "work").rglob("*")}
    run(raw, out)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with LocalProcesses(2) as executor:
        run(raw, tmp_path, executor=executor)
    assert results(tmp_path) == before


def test_one_source_alone_runs_those_that_its_models_are_made_of(raw, tokenizer_path, tmp_path):
    record = run(raw, tmp_path, f"tokenizer.path={tokenizer_path}", only=("commoncrawl",))
    assert list(record["sources"]) == ["commoncrawl"]
    assert record["sources"]["commoncrawl"]["stages"][-1]["documents"] == REFERENCES


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("settings.classifier.min_pages=25", DataError, r"found 24 pages that wikipedia .*25 of"),
        (
            'settings.perplexity.train=["wiki"]',
            ConfigError,
            r"wiki, which is no source(?s:.*)mean wik",
        ),
        ('settings.classifier.references="c4"', ConfigError, "wikipedia reads, and c4 reads c4"),
        ('settings.perplexity.train=["commoncrawl"]', ConfigError, "made in a circle"),
        ("settings.perplexity.train=[]", ConfigError, r"needs a model(?s:.*)train = "),
        ("settings.perplexity.model=lm", ConfigError, "give one of both"),
        ('settings.classifier.references=""', ConfigError, "classifier needs a model"),
        ('settings.language.languages=["en", "da"]', DataError, "wikipedia have no text in da"),
    ],
)
def test_a_model_that_cannot_be_made_is_one_clear_error(raw, tmp_path, setting, error, message):
    with pytest.raises(error, match=message):
        run(raw, tmp_path, setting, "keep=[]")


def test_pages_of_one_s_own_may_teach_the_classifier(raw, built, tmp_path):
    out, _ = built
    articles = tmp_path / "articles.jsonl.zst"
    (found,) = (out / "work").glob("wikipedia/00-read-*/*.zst")
    articles.write_bytes(found.read_bytes())
    own = f'settings.classifier={{positive=["{articles}"], min_pages=10}}'
    record = run(raw, tmp_path / "out", own, 'settings.perplexity.keep=["head","tail"]')
    (folder,) = (tmp_path / "out" / "work" / "commoncrawl").glob("model-classifier-*")
    report = json.loads((folder / "model-00000.npz.report.json").read_text())
    assert report["model"]["positive"] == 40
    kept = last_texts(tmp_path / "out", "commoncrawl/04-classifier-*/*.zst")
    assert len(kept) == stages_of(record, "commoncrawl")["classifier"]["documents"]
    assert not any("discount" in text for text in kept)


CITED = (
    "iana.org/numbers iana.org/domains/root iana.org/about iana.org/domains/arpa "
    "iana.org/time-zones commoncrawl.org/faq kiwix.org/en/about-us creativecommons.org/mission"
)
REAL = {
    "commoncrawl": ["commoncrawl/*/*.warc*"],
    "c4": ["c4/dolma/*.gz"],
    "wikipedia": ["wikipedia/dbpedia-minidumps/enwiki-mini.xml.bz2"],
    "books": ["books/gitenberg"],
    "arxiv": ["arxiv/celerite.tar.gz", "arxiv/drop-impact.tar.gz"],
    "stackexchange": ["stackexchange/beer"],
}
# Documents after each stage, once kept and dropped texts of all were read by eye: in the tail are
# lists of posts and notices, unlike references are lists of links and terms of use; the ten books
# are four, in several editions and encodings. Classifiers differ by a few pages between machines.
FUNNEL = {
    "commoncrawl": [234, 160, 118, 71],
    "c4": [20],
    "wikipedia": [25],
    "books": [10, 4],
    "arxiv": [2],
    "stackexchange": [663],
}


@needs_samples
def test_real_samples_of_all_sources(raw, tmp_path):
    """Real crawls, dumps, books; but one article that refers to eight of the crawl's pages."""
    inputs = {name: [str(SAMPLES / one) for one in paths] for name, paths in REAL.items()}
    article = " ".join(f"[https://www.{one}/ A]" for one in CITED.split())
    page = f"<page><title>A</title><ns>0</ns><revision><text>{article}</text></revision></page>"
    dump = tmp_path / "cites.xml"
    dump.write_text(f'<mediawiki xml:lang="en">{page}</mediawiki>')
    inputs["wikipedia"].append(str(dump))
    settings = [f"sources.{name}.inputs={json.dumps(paths)}" for name, paths in inputs.items()]
    settings += ["settings.classifier.min_pages=5", "tokenizer.sample_bytes=300000"]
    settings += ["settings.perplexity.training.vocabulary_size=2000"]
    record = run(raw, tmp_path / "out", *settings)
    funnel = {
        name: [one["documents"] for one in source["stages"] if one["stage"] != "classifier"]
        for name, source in record["sources"].items()
        if name in REAL
    }
    assert funnel == FUNNEL
    crawl = stages_of(record, "commoncrawl")
    assert 50 <= crawl["classifier"]["documents"] < 71
    counts = crawl["perplexity"]["counts"]
    assert [counts[f"en {bucket}"] for bucket in ("head", "middle", "tail")] == [36, 35, 47]
    (folder,) = (tmp_path / "out" / "work" / "commoncrawl").glob("model-classifier-*")
    learned = json.loads((folder / "model-00000.npz.report.json").read_text())["model"]
    assert 5 <= learned["positive"] == learned["negative"] <= len(CITED.split())
    for book in stages_of(record, "books")["books"]["examples"]["in another book"]:
        assert book["id"].split("__")[0] == book["detail"].split("__")[0]
