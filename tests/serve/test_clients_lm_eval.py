"""lm-eval's `local-completions` on a real model: whole tasks, scored as the engine scores them."""

import csv
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve.offline import Offline
from shared_weights import SHARED, needs_shared

pytest.importorskip("lm_eval", reason="the extra puna[clients] is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

MMLU = SHARED.parent / "benchmarks" / "mmlu" / "mmlu.tar.gz"
WINDOW = 128  # tokens, so that a text has several
TEXTS = [
    " ".join(["The llama lives on the grassland of the Andes, where the air is cold."] * 12),
    "In the morning the herd walks down to the river, and in the evening it comes back.",
]


@pytest.fixture(autouse=True)
def offline_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Data sets come from files, and leave nothing behind."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def evaluated(
    served: Offline, folder: Path, rows: list[dict[str, Any]], window: int = 2048, **task: Any
) -> Any:
    """What lm-eval finds for a task of these rows: its results and samples."""
    import datasets
    from lm_eval import simple_evaluate

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "ours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        **task,
    }
    return simple_evaluate(
        model="local-completions",
        model_args={
            "base_url": f"{served.url}/v1/completions",
            "model": "smollm2",
            "tokenizer_backend": "remote",
            "max_length": window,
            "num_concurrent": 2,
        },
        tasks=[task],
        batch_size=16,
        bootstrap_iters=0,
        verbosity="ERROR",
    )


def capitals() -> list[dict[str, Any]]:
    """Nine questions with three choices each."""
    cities = {
        "France": "Paris",
        "Italy": "Rome",
        "Spain": "Madrid",
        "Germany": "Berlin",
        "Austria": "Vienna",
        "Greece": "Athens",
        "Ireland": "Dublin",
        "Egypt": "Cairo",
        "Japan": "Tokyo",
    }
    names = list(cities.values())
    return [
        {
            "question": f"The capital of {land} is",
            "choices": [city, names[number - 1], names[number - 5]],
            "answer": 0,
        }
        for number, (land, city) in enumerate(cities.items())
    ]


def geography() -> list[dict[str, Any]]:
    """MMLU's validation set of high-school geography, 22 questions."""
    with tarfile.open(MMLU) as archive:
        file = archive.extractfile("val/high_school_geography_val.csv")
        assert file is not None
        lines = list(csv.reader(io.TextIOWrapper(file, encoding="utf-8")))
    return [
        {"question": question, "choices": choices, "answer": "ABCD".index(answer)}
        for question, *choices, answer in lines
    ]


@pytest.mark.parametrize("rows", [capitals, pytest.param(geography, marks=needs_shared)])
def test_multiple_choice_is_scored_as_offline(rows: Any, smollm2: Offline, tmp_path: Path):
    questions = rows()
    found = evaluated(
        smollm2,
        tmp_path,
        questions,
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="{{choices}}",
        doc_to_target="{{answer}}",
        metric_list=[{"metric": "acc"}],
    )
    encode = smollm2.engine.tokenizer.encode
    contexts, ends = [], []
    for row in questions:
        for choice in row["choices"]:
            context = encode(row["question"])
            contexts.append(context)
            ends.append(encode(f"{row['question']} {choice}")[len(context) :])
    scores = smollm2.scores(contexts, ends)
    samples = sorted(found["samples"]["ours"], key=lambda one: one["doc_id"])
    told = [float(reply[0]) for one in samples for reply in one["filtered_resps"]]
    np.testing.assert_allclose(told, scores, rtol=1e-4)
    size = len(questions[0]["choices"])
    best = [int(np.argmax(scores[at : at + size])) for at in range(0, len(scores), size)]
    right = [best == row["answer"] for best, row in zip(best, questions, strict=True)]
    assert found["results"]["ours"]["acc,none"] == pytest.approx(np.mean(right))
    if rows is capitals:
        assert np.mean(right) > 0.5  # chance gives a third


def test_the_marks_have_the_ids_of_offline(smollm2: Offline):
    from lm_eval.utils import RemoteTokenizer

    tokenizer, remote = smollm2.engine.tokenizer, RemoteTokenizer(smollm2.url)
    with remote.session:
        found = remote.bos_token_id, remote.eos_token_id
    assert found == (tokenizer.bos_id, tokenizer.eos_id)


def test_word_perplexity_is_that_of_offline(smollm2: Offline, tmp_path: Path):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    found = evaluated(
        smollm2,
        tmp_path,
        [{"text": one} for one in TEXTS],
        WINDOW,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}],
    )
    tokenizer = smollm2.engine.tokenizer
    windows = [
        make_disjoint_window(window)
        for text in TEXTS
        for window in get_rolling_token_windows(
            tokenizer.encode(text), tokenizer.bos_id, max_seq_len=WINDOW - 2, context_len=1
        )
    ]
    assert len(windows) > len(TEXTS)
    nats = -sum(smollm2.scores(*zip(*windows, strict=True)))
    words = sum(len(one.split()) for one in TEXTS)
    perplexity = found["results"]["ours"]["word_perplexity,none"]
    assert perplexity == pytest.approx(math.exp(nats / words), rel=1e-4)


def test_generated_answers_are_those_of_offline(smollm2: Offline, tmp_path: Path):
    rows = [{"question": "Once upon a time"}, {"question": "The capital of France is"}]
    found = evaluated(
        smollm2,
        tmp_path,
        rows,
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="Paris",
        generation_kwargs={"until": ["."], "max_gen_toks": 24, "temperature": 0},
        metric_list=[{"metric": "exact_match"}],
    )
    samples = sorted(found["samples"]["ours"], key=lambda one: one["doc_id"])
    told = [one["resps"][0][0] for one in samples]
    assert told == [smollm2.text(row["question"], stop=(".",)) for row in rows]
