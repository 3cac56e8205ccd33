"""Which curves the report draws of a run, and what it says where one cannot be drawn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from puna.console import human_bytes, human_count
from puna.train.metrics import Step
from puna.train.report.charts import Bar, Chart, Point
from puna.train.report.facts import RunFacts, section
from puna.train.report.series import (
    Axis,
    Series,
    axis,
    downsample,
    log_axis,
    moving_average,
    needs_log,
    power_of_ten,
    steps_axis,
    superscript,
)

SMOOTHING_SHARE = 40  # the smooth loss line averages over one fortieth of the run


def all_charts(facts: RunFacts) -> list[Chart]:
    """The charts that this run has numbers for, in the order of the page."""
    if not facts.metrics.steps:
        return []
    wide, x = steps_axis(facts.last_step, count=8), steps_axis(facts.last_step, count=4)
    charts = [
        loss_chart(facts, wide),
        bits_per_byte_chart(facts, wide),
        _learning_rate(facts, x),
        _gradient_norm(facts, x),
        _tokens_per_second(facts, x),
        _memory(facts, x),
        _mfu(facts, x),
    ]
    return [chart for chart in charts if chart is not None]


def loss_chart(facts: RunFacts, x: Axis) -> Chart:
    """Training loss of each step, its moving average, validation points, resumes as marks."""
    series = _series(facts.metrics.steps, "loss")
    window = max(1, len(series.steps) // SMOOTHING_SHARE)
    smooth = moving_average(series.mean, window) if window > 1 else []
    dots = [
        (float(point.step), point.loss)
        for point in facts.metrics.validations
        if point.loss is not None
    ]
    y = axis(series.values + [value for _, value in dots], count=6)
    legend = [("raw" if smooth else "line", _each(series))]
    if smooth:
        steps = window * series.bucket_size
        legend.append(("line", f"average over {steps:,} steps"))
    if dots:
        best = min(value for _, value in dots)
        legend.append(("dot", f"validation, best {best:.3f}"))
    return Chart(
        key="loss",
        title="Loss",
        unit="nats per token",
        description=_falls("The training loss", smooth or series.mean),
        x=x,
        y=y,
        number=lambda value: f"{value:.3f}",
        resting=_loss_at_the_end(smooth or series.mean, dots),
        series=series,
        smooth=smooth,
        dots=dots,
        marks=_resumes(facts),
        legend=legend,
        is_large=True,
    )


def bits_per_byte_chart(facts: RunFacts, x: Axis) -> Chart | None:
    """Bits per byte of the validation text during training, the best baseline as a line."""
    dots = [
        (float(point.step), point.bits_per_byte)
        for point in facts.metrics.validations
        if point.bits_per_byte is not None
    ]
    if len(dots) < 2:
        return None
    baselines = facts.evaluation.baselines if facts.evaluation else {}
    rival = min(baselines.items(), key=lambda pair: pair[1], default=None)
    rules = [(rival[1], "")] if rival else []
    y = axis([value for _, value in dots] + [value for value, _ in rules])
    return Chart(
        key="bits",
        title="Validation",
        unit="bits per byte",
        description=_falls("Bits per byte of the validation text", [v for _, v in dots]),
        x=x,
        y=y,
        number=lambda value: f"{value:.3f} bits per byte",
        resting=f"ends at {dots[-1][1]:.3f}",
        dots=dots,
        rules=rules,
        legend=[("rule", f"{rival[0]}, {rival[1]:.2f}")] if rival else [],
    )


def headline_bars(facts: RunFacts) -> list[Bar]:
    """The model and the baselines on the held-out text, the fewest bits first."""
    if facts.evaluation is None:
        return []
    rows = [Bar(f"this model, {parameters(facts)}", facts.evaluation.bits_per_byte, True)]
    rows += [Bar(name, value) for name, value in facts.evaluation.baselines.items()]
    return sorted(rows, key=lambda row: row.value)


def parameters(facts: RunFacts) -> str:
    """The model's size in words: `6.82M parameters`."""
    return f"{human_count(facts.metrics.session.parameters)} parameters"


def why_no_mfu(facts: RunFacts) -> str | None:
    """Why the share of the peak is not drawn, or None when it is."""
    if any(step.mfu is not None for step in facts.metrics.steps):
        return None
    session = facts.metrics.session
    if session.peak_tflops is None:
        return f"the peak matmul rate of this device ({session.device_name}) is not known"
    return "the run did not record it"


def _learning_rate(facts: RunFacts, x: Axis) -> Chart:
    series = _series(facts.metrics.steps, "learning_rate")
    exponent = power_of_ten(series.values)
    factor = 10.0**-exponent
    return Chart(
        key="rate",
        title="Learning rate",
        unit=f"\u00d7{superscript(exponent)}" if exponent else "",
        description=f"At most {_learning_rate_words(max(series.values, default=0.0))}.",
        x=x,
        y=axis([value * factor for value in series.values], from_zero=True, count=4),
        number=_learning_rate_words,
        resting=f"peak {_learning_rate_words(max(series.values, default=0.0))}",
        series=series,
        factor=factor,
    )


def _gradient_norm(facts: RunFacts, x: Axis) -> Chart:
    series = _series(facts.metrics.steps, "gradient_norm")
    clip = _clip(facts)
    shown = series.values + ([clip] if clip else [])
    is_log = needs_log(shown)
    return Chart(
        key="norm",
        title="Gradient norm",
        unit="before clipping, log scale" if is_log else "before clipping",
        description=f"The norm of all gradients; at most {max(shown, default=0):.3g}.",
        x=x,
        y=log_axis(shown) if is_log else axis(shown, from_zero=True, count=4),
        number=lambda value: f"{value:.3g}",
        resting=f"median {_median(series):.3g}",
        series=series,
        rules=[(clip, f"clipped at {clip:g}")] if clip else [],
    )


def _tokens_per_second(facts: RunFacts, x: Axis) -> Chart:
    series = _series(facts.metrics.steps, "tokens_per_second")
    return Chart(
        key="speed",
        title="Speed",
        unit="tokens per second",
        description=f"At most {max(series.values, default=0):,.0f} tokens per second.",
        x=x,
        y=axis(series.values, from_zero=True, count=4),
        number=lambda value: f"{value:,.0f} tokens/s",
        resting=f"median {_median(series):,.0f}",
        series=series,
    )


def _memory(facts: RunFacts, x: Axis) -> Chart:
    series = _series(facts.metrics.steps, "memory_bytes")
    largest = max(series.values, default=0)
    exponent = 3 if largest >= 1024**3 else 2
    factor = 1.0 / 1024**exponent
    kind = "of the process" if facts.metrics.session.device == "cpu" else "of the device"
    return Chart(
        key="memory",
        title="Memory",
        unit=f"{'GiB' if exponent == 3 else 'MiB'} {kind}",
        description=f"At most {human_bytes(largest)}.",
        x=x,
        y=axis([value * factor for value in series.values], from_zero=True, count=4),
        number=human_bytes,
        resting=f"peak {human_bytes(largest)}",
        series=series,
        factor=factor,
    )


def _mfu(facts: RunFacts, x: Axis) -> Chart | None:
    if why_no_mfu(facts):
        return None
    series = _series(facts.metrics.steps, "mfu")
    return Chart(
        key="mfu",
        title="Model FLOPs utilisation",
        unit="MFU, % of peak",
        description=f"At most {100 * max(series.values):.0f} % of the device's peak matmul rate.",
        x=x,
        y=axis([100 * value for value in series.values], from_zero=True, count=4),
        number=lambda value: f"{100 * value:.1f} %",
        resting=f"median {100 * _median(series):.1f} %",
        series=series,
        factor=100.0,
    )


def _series(steps: Sequence[Step], name: str) -> Series:
    return downsample([step.step for step in steps], [getattr(step, name) for step in steps])


def _median(series: Series) -> float:
    return statistics.median([value for value in series.mean if value is not None] or [0.0])


def _learning_rate_words(value: float) -> str:
    """`1.5e-3` for 0.0015."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def _loss_at_the_end(curve: Sequence[float | None], dots: Sequence[Point]) -> str:
    known = [value for value in curve if value is not None]
    words = f"ends at {known[-1]:.3f}" if known else "never finite"
    return f"{words} · validation {dots[-1][1]:.3f}" if dots else words


def _each(series: Series) -> str:
    if series.bucket_size == 1:
        return "each step"
    return f"mean of {series.bucket_size:,} steps, band from lowest to highest"


def _falls(what: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"{what} was never finite."
    return f"{what} goes from {known[0]:.3f} to {known[-1]:.3f}; lowest {min(known):.3f}."


def _resumes(facts: RunFacts) -> list[tuple[int, str]]:
    steps = {session.step for session in facts.metrics.sessions if session.step > 0}
    return [(step, "resumed") for step in sorted(steps) if step <= facts.last_step]


def _clip(facts: RunFacts) -> float | None:
    """The gradient norm that the recipe clips at, under the names recipes use for it."""
    for part in ("train", "optimizer"):
        for name in ("clip_norm", "gradient_clip", "clip"):
            value = section(facts.recipe, part).get(name)
            if isinstance(value, int | float) and value > 0:
                return float(value)
    return None
