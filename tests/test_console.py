"""Talk goes to stderr, data to stdout; numbers read as people write them."""

import io
import json
from contextlib import contextmanager

import pytest

from puna import console as console_module
from puna.console import (
    Console,
    human_bytes,
    human_count,
    human_duration,
    human_scaled,
    parse_count,
    silent,
    table,
)
from puna.errors import UsageError


def console(**options) -> tuple[Console, io.StringIO, io.StringIO]:
    stdout, stderr = io.StringIO(), io.StringIO()
    return Console(stdout=stdout, stderr=stderr, **options), stdout, stderr


def test_talk_and_data_never_mix():
    one, stdout, stderr = console()
    one.heading("Stage")
    one.say("talk")
    one.write("data")
    assert stdout.getvalue() == "data\n"
    assert stderr.getvalue() == "Stage\ntalk\n"


def test_json_output_is_one_line_with_text_as_it_is():
    one, stdout, _stderr = console(json_output=True)
    one.result({"text": "naïve\n\N{LLAMA}"}, "for people")
    assert stdout.getvalue().count("\n") == 1
    assert "\N{LLAMA}" in stdout.getvalue()
    assert json.loads(stdout.getvalue()) == {"text": "naïve\n\N{LLAMA}"}


def test_a_quiet_console_still_warns():
    one, stdout, stderr = console(quiet=True)
    one.say("talk")
    one.warn("fp32, no bf16 here")
    assert stderr.getvalue() == "warning: fp32, no bf16 here\n"
    assert stdout.getvalue() == ""
    assert silent().quiet


def test_colours_only_where_they_are_on():
    plain, _stdout, stderr = console()
    plain.warn("careful")
    assert "\x1b" not in stderr.getvalue()
    colored, _stdout, stderr = console(color=True)
    colored.warn("careful")
    assert stderr.getvalue() == "\x1b[33mwarning: careful\x1b[0m\n"


def test_a_long_stage_gets_a_bar_from_where_it_is(monkeypatch):
    one, stdout, _stderr = console()
    seconds = iter([0.0, 0.0, 1.0, 2.0, 3.0, 3.0])
    monkeypatch.setattr(console_module.time, "perf_counter", lambda: next(seconds))
    made = []

    @contextmanager
    def progress(total, label, unit, *, initial=0):
        made.append(Bar(label, total, initial))
        yield made[-1]
        made[-1].is_closed = True

    monkeypatch.setattr(one, "progress", progress)
    with one.stages("B") as tell:
        for done in (0, 10, 20, 50, 90):
            tell("packing", done, 100)
        assert [bar.n for bar in made] == [90]
        tell("keeping", 0, 100)  # the next stage ends the first one's bar
        assert made[0].is_closed
    (bar,) = made
    assert (bar.label, bar.total, bar.updates) == ("packing", 100, [30, 40])
    assert stdout.getvalue() == ""


def test_short_stages_print_nothing():
    one, _stdout, stderr = console()
    with one.stages("B") as tell:
        for stage in ("packing", "keeping"):
            for done in range(100):
                tell(stage, done, 100)
    assert stderr.getvalue() == ""


class Bar:
    """Keeps what a progress bar is told."""

    def __init__(self, label, total, initial):
        self.label, self.total, self.n, self.updates, self.is_closed = (
            label,
            total,
            initial,
            [],
            False,
        )

    def update(self, amount=1):
        self.updates.append(amount)
        self.n += amount


def test_a_progress_bar_writes_to_stderr_and_is_silent_when_quiet():
    one, stdout, stderr = console()
    with one.progress(2, "reading", "documents") as bar:
        bar.update(2)
    assert stdout.getvalue() == ""
    quiet, _stdout, stderr = console(quiet=True)
    with quiet.progress(2, "reading", "documents") as bar:
        bar.update(2)
    assert stderr.getvalue() == ""


def test_a_table_keeps_its_columns_under_their_heads():
    text = table(("size", "parameters"), [("7B", "6,738,415,616"), ("tiny", 12)])
    assert text.splitlines() == [
        "size     parameters",
        "----  -------------",
        "7B    6,738,415,616",
        "tiny             12",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (12_345, "12.3k"), (999_999, "1M"), (6.738e9, "6.74B"), (1e12, "1T"),
     (2.5e15, "2,500T")],
)  # fmt: skip
def test_counts_have_three_digits(value: float, text: str):
    assert human_count(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("950", 950), ("12.3k", 12_300), ("$2M", 2e6), ("6.74B", 6.74e9), ("1.4t", 1.4e12),
     ("3e9", 3e9), ("0", 0)],
)  # fmt: skip
def test_counts_are_read_as_they_are_written(text: str, value: float):
    assert parse_count(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "much", "-1", "1e9999", "nan", "inf", "7 B 2", "1,000", "1e9x"]
)
def test_what_is_no_count_is_refused(text: str):
    with pytest.raises(UsageError, match="expected a count such as 500k, 13B"):
        parse_count(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (812, "812 B"), (1024, "1.0 KiB"), (1.5 * 2**20, "1.5 MiB"), (2**45, "32.0 TiB")],
)
def test_bytes_are_in_binary_units(value: float, text: str):
    assert human_bytes(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.35, "0.35 s"),
        (9.96, "10 s"),
        (42.3, "42 s"),
        (59.7, "1 min 00 s"),
        (303, "5 min 03 s"),
        (12_000, "3 h 20 min"),
        (21 * 86_400, "21 days"),
        (1000 * 86_400, "2.74 years"),
        (1.69e5 * 86_400, "463 years"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str):
    assert human_duration(seconds) == text


def test_units_suit_the_value():
    units = ("Wh", "kWh", "MWh")
    assert [human_scaled(value, units) for value in (0.94, 12_300, 999.6, 4.2e9)] == [
        "0.94 Wh",
        "12.3 kWh",
        "1 kWh",
        "4.2k MWh",
    ]
