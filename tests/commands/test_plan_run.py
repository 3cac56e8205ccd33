"""`puna plan ask --model`: one screen, the same for machines, and clear refusals."""

from __future__ import annotations

import json
import re

import pytest

from puna import cli, hardware
from puna.commands import plan_devices
from puna.errors import MachineError
from puna.plan import devices


def ask(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What it says: the answer, or the error."""
    assert cli.main(["plan", "ask", "--model", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


@pytest.mark.parametrize(
    "words",
    [
        ("7B", "--devices", "8xA100-80GB"),
        ("65B", "--devices", "2048xA100-80GB", "--tensor", "8", "--zero", "1"),
        ("65B", "--devices", "8xH100", "--zero", "1"),
        ("7B", "--devices", "RTX-4090"),
        ("llama3.1-405b", "--devices", "16384xH100-SXM", "--tokens", "15.6T", "--context", "8192",
         "--batch-tokens", "134217728"),
        ("110M", "--devices", "M4-Max", "--tokens", "10B", "--precision", "fp32"),
        ("7B", "--devices", "8xA100-80GB", "--compile", "off"),
    ],
)  # fmt: skip
def test_the_answer_fits_a_screen(words, capsys):
    lines = ask(capsys, *words).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert re.search(r"parameters \(\d+ layers of \d+.*\) on \d+ x", " ".join(lines[:2]))
    starts = {line.split(" ")[0] for line in lines}
    assert {"layout", "memory", "speed", "training", "to", "assumes"} <= starts


def test_the_papers_65b_takes_its_days_its_energy_and_its_carbon(capsys):
    words = ("--tensor", "8", "--zero", "1", "--checkpointing", "selective", "--micro-batch", "8")
    found = json.loads(ask(capsys, "65B", "--devices", "2048xA100-80GB", *words, "--json"))
    assert found["tokens"] == 1.4e12
    assert found["cost"]["days"] == pytest.approx(21, rel=0.1)
    assert found["cost"]["energy_kwh"] == pytest.approx(449e3, rel=0.1)
    assert found["cost"]["carbon_kg"] == pytest.approx(173e3, rel=0.1)
    assert found["step"]["tokens_per_second"] / 2048 == pytest.approx(380, rel=0.1)
    assert found["serving"]["kv_bytes_per_token"]["bf16"] == 2_621_440


def test_a_device_to_run_it_on_is_answered_for(capsys):
    said = " ".join(ask(capsys, "7B", "--on", "RTX-4090").split())
    assert re.search(r"on RTX-4090 it fits in Q4_0: 4\.\d GiB of 22\.6 GiB; \d+ tokens/s", said)
    words = ("65B", "--devices", "2048xA100-80GB", "--on", "24GB", "--on-weights", "int8", "--json")
    home = json.loads(ask(capsys, *words))["home"]
    assert (home["name"], home["kind"], home["fits"]) == ("24GB", "Q8_0", False)


def test_a_recipe_says_its_own_step_tokens_and_checkpointing(capsys):
    """The demo: 1,400 steps of 4,096 tokens under `narrow`."""
    words = ("demo.toml", "--devices", "RTX-4090", "--json")
    found = json.loads(ask(capsys, *words))
    assert (found["tokens"], found["batch_tokens"]) == (1400 * 4096, 4096)
    assert found["checkpointing"] == "narrow"
    assert json.loads(ask(capsys, *words, "--tokens", "1M"))["tokens"] == 1e6


def test_a_recipes_own_settings_are_those_of_the_trainer(capsys, tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        "[model]\ndim = 512\nlayers = 4\nheads = 8\ncontext_length = 16384\n"
        '[train]\nprecision = "fp32"\ncompile = "off"\nbatch_tokens = 65536\n'
    )
    found = json.loads(ask(capsys, recipe, "--devices", "H100", "--json"))
    told = (found["precision"], found["compiled"], found["checkpointing"], found["context_length"])
    assert told == ("fp32", False, "selective", 16384)
    recipe.write_text("[model]\ndim = 512\n[train]\nbatch_token = 1\n")
    assert "batch_tokens" in ask(capsys, recipe, code=1)


def test_apples_gpus_multiply_in_float32_as_the_trainer_does_there(capsys):
    found = json.loads(ask(capsys, "1B", "--devices", "M4-Max", "--json"))
    assert (found["precision"], found["compiled"]) == ("fp32", False)


def test_a_step_far_beyond_the_papers_is_told(capsys):
    assert cli.main(["plan", "ask", "--model", "7B", "--devices", "100000xH100-SXM"]) == 0
    said = capsys.readouterr().err
    assert "a step of 205M tokens is 49 times the paper's" in said


def test_a_bar_shows_what_fits_and_what_sticks_out(capsys):
    fits = ask(capsys, "7B", "--devices", "8xA100-80GB")
    bar = next(line for line in fits.splitlines() if line.startswith("memory"))
    assert bar.endswith("fits")
    assert "w" * 5 in bar
    assert "other ways" in fits
    too_large = ask(capsys, "7B", "--devices", "RTX-4090")
    bar = next(line for line in too_large.splitlines() if line.startswith("memory"))
    assert bar.endswith("over")
    assert bar.index("]") < bar.rindex("o")
    assert "what would make it fit" in too_large
    assert "8 of them: " in too_large


def test_who_runs_the_layout_is_said(capsys):
    assert "planned: puna train takes one device" in ask(capsys, "7B", "--devices", "8xH100")
    assert "(puna train runs it)" in ask(capsys, "1B", "--devices", "H100")


def test_money_is_what_an_hour_is_said_to_cost(capsys):
    words = ("7B", "--devices", "8xA100-80GB", "--json")
    own = json.loads(ask(capsys, *words))
    said = json.loads(ask(capsys, *words, "--usd-per-hour", "2.78"))
    assert own["usd_per_hour"] == 1.39
    assert said["cost"]["usd"] == pytest.approx(2 * own["cost"]["usd"])
    apple = ask(capsys, "110M", "--devices", "M4-Max", "--tokens", "1B")
    assert "no price is known (--usd-per-hour)" in apple


def test_every_alternative_of_the_record_is_whole(capsys):
    found = json.loads(ask(capsys, "13B", "--devices", "8xA100-40GB", "--json"))
    for one in [found, *found["alternatives"]]:
        parts = {name: value for name, value in one["memory"].items() if name != "total"}
        assert one["memory"]["total"] == pytest.approx(sum(parts.values()))
        assert one["fits"] == (one["memory"]["total"] <= found["device"]["usable_bytes"])


@pytest.mark.parametrize(
    ("words", "wrong", "hint"),
    [
        (("7C", "--devices", "8xA100"), "no size, published shape, recipe, folder", "7B"),
        (("7B", "--devices", "8xA100-90GB"), "has no 'A100-90GB'", "A100-80GB"),
        (("7B", "--devices", "2xthis"), "there is one machine here", "8xA100-80GB"),
        (("7B", "--devices", "8xA100", "--tensor", "3"), "no layout with tensor 3", "divisor"),
        (("7B", "--devices", "8xA100", "--batch-tokens", "1M"), "1,000,000 tokens a step", "try"),
        (("7B", "--devices", "8xA100", "--tokens", "0"), "--tokens should be at least 1", ""),
        (("7B", "--devices", "8xA100", "--micro-batch", "0"), "--micro-batch should be", ""),
    ],
)
def test_what_cannot_be_is_said_with_what_can(words, wrong, hint, capsys):
    is_usage = {"--tokens", "--micro-batch", "8xA100-90GB", "2xthis"} & set(words)
    said = ask(capsys, *words, code=2 if is_usage else 1)
    assert wrong in said
    assert hint in said


# This machine


def test_this_machine_is_probed(monkeypatch, capsys):
    monkeypatch.setattr("puna.evaluate.bandwidth.ReadProbe", lambda _size: Probe())
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: hardware.Rate(1e12, "not measured"))
    said = ask(capsys, "15M", "--devices", "cpu", "--tokens", "300M", "--batch-tokens", "65536")
    assert "(puna train runs it)" in said
    assert "nobody says what this machine draws" in said


class Probe:
    """A bandwidth that nobody measured."""

    source = "a test"

    def __call__(self) -> float:
        return 20e9


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ],
)
def test_a_gpu_here_is_found_in_the_table_by_its_drivers_name(driver, name, monkeypatch):
    device = hardware.Device("cuda", driver, 80 << 30)
    monkeypatch.setattr(hardware, "has_package", lambda _name: True)
    monkeypatch.setattr(hardware, "choose_device", lambda: device)
    assert plan_devices.find("this") == (1, devices.device(name))


def test_a_gpu_that_the_table_lacks_is_said(monkeypatch):
    monkeypatch.setattr(hardware, "has_package", lambda _name: True)
    device = hardware.Device("cuda", "NVIDIA T4", 16 << 30)
    monkeypatch.setattr(hardware, "choose_device", lambda: device)
    with pytest.raises(MachineError, match="has no NVIDIA T4"):
        plan_devices.find("this")
