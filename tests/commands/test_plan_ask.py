"""`puna plan ask`: advice on one screen, the same for machines, and clear refusals."""

import json
import re
import subprocess
import sys

import pytest

from puna import cli
from puna.commands import plan_devices
from puna.plan import devices
from puna.plan import law as laws

GOOD = ("--as-good-as", "llama-13b", "--inference-tokens", "2T")


def ask(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What it says: the answer, or the error."""
    assert cli.main(["plan", "ask", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def record(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    return json.loads(ask(capsys, *words, "--json"))


@pytest.mark.parametrize(
    "words",
    [
        GOOD,
        ("--budget", "1M", "--requests-a-day", "500k", "--devices", "128xH100-SXM"),
        ("--as-good-as", "llama-7b", "--inference-tokens", "1T", "--on", "RTX-4090",
         "--first-token", "400ms", "--tokens-per-second", "20", "--most-tokens", "3T",
         "--training-days", "300", "--training-budget", "10M"),
        ("--training-budget", "300", "--devices", "8xH100-SXM"),
        ("--loss", "2.2", "--law", "hoffmann"),
    ],
)  # fmt: skip
def test_the_advice_fits_a_screen(words, capsys):
    lines = ask(capsys, *words).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert re.match(r"Train [\d.]+[MBT] parameters \(\d+ layers of \d+\) on [\d.]+[BT] ", lines[0])
    assert lines[-1].strip()


def test_it_says_what_the_alternatives_cost_and_what_is_assumed(capsys):
    said = ask(capsys, *GOOD)
    rows = ("this plan", "Chinchilla's", "llama-13b", "half of it", "twice it")
    lines = ("It beats Chinchilla's from", "90 % of refits:", "assumes ", "1,000 read and 250")
    for part in (*rows, *lines):
        assert part in said, part


def test_the_record_holds_what_is_said(capsys):
    found = record(capsys, *GOOD)
    plan = found["plan"]
    assert plan["total_usd"] == pytest.approx(plan["training_usd"] + plan["inference_usd"])
    assert plan["loss"] == pytest.approx(2.049, abs=5e-4)
    assert found["chinchilla"]["loss"] == pytest.approx(plan["loss"])
    assert plan["total_usd"] < min(found[name]["total_usd"] for name in ("chinchilla", "half"))
    assert found["break_even_tokens"] < found["load"]["tokens"] == 2e12
    assert found["law"]["name"] == "epoch"
    assert found["band"]["loss"][0] < plan["loss"] < found["band"]["loss"][1]


def test_requests_a_day_are_tokens_of_a_life(capsys):
    words = ("--as-good-as", "llama-7b", "--requests-a-day", "1M", "--years", "3")
    load = record(capsys, *words, "--prompt", "700", "--output", "300")["load"]
    assert load["tokens"] == pytest.approx(1e6 * 365.25 * 3 * 1000)


def test_llama_7b_is_what_its_own_use_asks_for(capsys):
    """As good as itself, a trillion tokens of use, and a first token on one gaming GPU."""
    words = ("--as-good-as", "llama-7b", "--inference-tokens", "1T", "--on", "RTX-4090")
    plan = record(capsys, *words, "--tokens-per-second", "20")["plan"]
    assert plan["parameters"] == pytest.approx(6.74e9, rel=0.2)
    assert plan["tokens"] == pytest.approx(1e12, rel=0.4)


def test_prices_can_be_said(capsys):
    words = (*GOOD, "--usd-per-hour", "2.78")
    once, twice = (record(capsys, *w)["plan"] for w in (GOOD, words))
    assert twice["config"] == once["config"]
    assert twice["total_usd"] == pytest.approx(2 * once["total_usd"])
    served = record(capsys, *GOOD, "--serve-on", "RTX-4090", "--serve-usd-per-hour", "0.4",
                    "--serve-weights", "int4")  # fmt: skip
    assert served["serving"] == {"device": "RTX-4090", "kind": "Q4_0"}


def test_a_law_of_ones_own(capsys, tmp_path):
    path = tmp_path / "mine.json"
    laws.save(laws.load(laws.EPOCH_DRAWS), path)
    found = record(capsys, "--as-good-as", "1B@20B", "--law", path)
    assert found["law"]["name"] == "chinchilla"
    assert found["plan"]["loss"] == pytest.approx(laws.PUBLISHED["epoch"].loss(1e9, 2e10), abs=2e-3)
    path.write_text(path.read_text().replace('"counts": "all"', '"counts": "without embeddings"'))
    said = ask(capsys, "--as-good-as", "llama-7b", "--law", path, code=2)
    assert "--as-good-as PARAMETERS@TOKENS" in said
    assert record(capsys, "--as-good-as", "1B@20B", "--law", path)["plan"]["parameters"] < 1.2e9


def test_a_small_vocabulary_lets_models_be_small(capsys):
    words = ("--as-good-as", "5M@100M", "--vocabulary", "4096")
    plan = record(capsys, *words)["plan"]
    assert plan["config"]["vocabulary_size"] == 4096
    assert plan["parameters"] == pytest.approx(4e6, rel=0.4)
    said = ask(capsys, *words[:2], "--vocabulary", "10", code=2)
    assert "--vocabulary should be 2,000 to 1,000,000" in said


def test_heads_may_share_keys_and_values(capsys):
    assert ", 8 heads a key) on " in ask(capsys, *GOOD, "--gqa", "8")


def test_without_use_the_plan_is_said_to_be_chinchillas(capsys):
    said = ask(capsys, "--as-good-as", "7B@140B")
    assert "It is Chinchilla's, the least training: no use is expected" in said
    assert "7B@140B  " in said


def test_a_plan_that_its_devices_cannot_train_is_told(capsys):
    words = ("--as-good-as", "llama-65b", "--devices", "1xRTX-4090")
    assert cli.main(["plan", "ask", *words]) == 0
    said = capsys.readouterr().err
    assert re.search(r"does not fit 1 x RTX-4090 to train: [\d.]+ TiB of 22.6 GiB on each", said)


def test_a_slower_layout_is_told(capsys):
    """RTX 4090 are linked by PCIe alone."""
    assert cli.main(["plan", "ask", "--as-good-as", "llama-65b", "--devices", "256xRTX-4090"]) == 0
    found = re.search(
        r"on 256 x RTX-4090 its training takes (\d+)% longer", capsys.readouterr().err
    )
    assert found is not None
    assert int(found[1]) >= 5


def test_speeds_without_a_place_are_of_the_devices_that_serve(capsys):
    words = ("--as-good-as", "llama-65b", "--inference-tokens", "1T", "--tokens-per-second")
    slow, fast = (record(capsys, *words, speed) for speed in ("1", "20"))
    assert slow["plan"]["parameters"] == fast["plan"]["parameters"]  # four A100 share it


def test_what_binds_is_told_though_nobody_asked_for_it(capsys):
    said = ask(capsys, "--budget", "10T", "--inference-tokens", "1B")
    assert "Keeps to 300T tokens of text" in said
    assert "on one node of 8 x A100-80GB (BF16)" in said
    assert "too large for one node of A100-80GB" in said
    assert (
        record(capsys, "--budget", "10T", "--inference-tokens", "1B")["chinchilla"]["total_usd"]
        is None
    )


def test_what_a_chosen_model_takes_is_asked_by_the_same_verb(capsys):
    said = ask(capsys, "--model", "7B", "--devices", "8xA100-80GB")
    assert "7B" in said
    assert "A100-80GB" in said


def test_this_machine_is_a_device_too(capsys, monkeypatch):
    probed = devices.this_machine(50e9, {"fp32": 1e12, "bf16": 2e12}, "measured: made up")
    listed = plan_devices.find
    monkeypatch.setattr(
        plan_devices, "find", lambda text: (1, probed) if text == "this" else listed(text)
    )
    words = ("--as-good-as", "1B@20B", "--inference-tokens", "1B", "--on", "this")
    found = record(capsys, *words, "--tokens-per-second", "20")
    fits, speed, *_others = found["kept"]
    assert fits["label"] == "in the memory of this machine (50 GB/s, 2 TFLOP/s) (Q4_0)"
    assert "tokens a second" in speed["label"]
    assert speed["share"] <= 1


def test_asking_needs_neither_torch_nor_scipy():
    words = ["plan", "ask", *GOOD]
    code = f"import sys; from puna.cli import main; main({words!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "scipy", "matplotlib"} & set(done.stdout.split()) == set()


def test_endless_money_does_not_train_on_more_text_than_there_is(capsys):
    plan = record(capsys, "--budget", "1T", "--on", "1GB")["plan"]
    assert plan["tokens"] == pytest.approx(300e12)
    assert plan["total_usd"] < 1e12


def test_an_amount_of_memory_is_a_limit(capsys):
    words = ("--as-good-as", "llama-13b", "--inference-tokens", "2T")
    kept = record(capsys, *words, "--on", "8GB")["kept"][0]
    assert kept["bound"] == "7.5 GiB"
    wide = record(capsys, *words, "--on", "24GiB", "--on-weights", "bf16")["kept"][0]
    assert wide["bound"] == "24.0 GiB"


def test_what_cannot_be_says_what_stands_in_the_way(capsys):
    words = ("--as-good-as", "llama-65b", "--on", "RTX-4090", "--first-token", "100ms")
    said = ask(capsys, *words, code=1)
    assert "any one of these, relaxed, would do" in said
    assert "100 ms allowed" in said
    assert "a loss of 1.976" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "wants something to aim at"),
        (("--loss", "2", "--as-good-as", "llama-7b"), 2, "both name a loss"),
        (("--as-good-as", "llama-66b"), 1, "did you mean llama-65b"),
        (("--as-good-as", "x@1T"), 2, "expected a count"),
        (("--loss", "1.5"), 1, "none is below 1.817"),
        (("--budget", "lots"), 2, "expected a count"),
        (("--budget", "0"), 2, "--budget should be above 0, got 0"),
        (("--loss", "nan"), 2, "--loss should be above 0, got nan"),
        ((*GOOD, "--usd-per-hour", "-3"), 2, "--usd-per-hour should be above 0"),
        ((*GOOD, "--model", "7B"), 2, "--as-good-as asks which model to train"),
        ((*GOOD, "--micro-batch", "4"), 2, "--micro-batch is of a model that is chosen"),
        ((*GOOD, "--precision", "fp32"), 2, "--precision is of a model that is chosen"),
        ((*GOOD, "--requests-a-day", "5"), 2, "both say how much"),
        ((*GOOD, "--prompt", "0"), 2, "--prompt should be above 0"),
        (("--model", "7B", "--gqa", "8"), 2, "--gqa asks which model to train"),
        (("--model", "7B", "--first-token", "1"), 2, "--first-token asks which model to train"),
        (("--model", "7B", "--usd-per-hour", "-1"), 2, "--usd-per-hour should be above 0, got -1"),
        (("--as-good-as", "llama-7b", "--years", "5"), 2, "--years is of a model's use"),
        (("--as-good-as", "llama-7b", "--serve-batch", "8"), 2, "--serve-batch is of a model's"),
        (("--as-good-as", "llama-7b", "--prompt", "5000"), 2, "--prompt is of a model's use"),
        (("--as-good-as", "13B@0"), 1, "more than 0 parameters and tokens"),
        ((*GOOD, "--on", "2xRTX-4090"), 2, "--on is one device, got 2xRTX-4090"),
        ((*GOOD, "--on", "24"), 2, "such as 24GB"),
        ((*GOOD, "--on-weights", "int8"), 2, "and none is named"),
        ((*GOOD, "--years", "5"), 2, "of the whole life, however many --years"),
        (("--as-good-as", "7B@1"), 2, "worse than guessing among 32,000 tokens"),
        ((*GOOD, "--law", "hoffmann-1"), 1, "says the best size of a compute, not the loss"),
        ((*GOOD, "--law", "mine.json"), 1, "found nothing there"),
        ((*GOOD, "--gqa", "0"), 2, "--gqa should be above 0 and at most 128, got 0"),
        ((*GOOD, "--serve-busy", "1.5"), 2, "--serve-busy should be above 0 and at most 1"),
        ((*GOOD, "--on", "24GB", "--first-token", "1"), 2, "need a device"),
        ((*GOOD, "--first-token", "soon"), 2, "--first-token should be seconds"),
        ((*GOOD, "--devices", "8xA1000"), 2, "the table of devices has no"),
        ((*GOOD, "--law", "epok"), 1, "did you mean epoch"),
        ((*GOOD, "--serve-on", "M3-Max"), 1, "has no price an hour"),
    ],
)
def test_mistakes_are_explained(words, code, said, capsys):
    assert said in ask(capsys, *words, code=code)
