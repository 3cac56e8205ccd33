"""What time on devices costs: money, energy, carbon (paper, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from puna.errors import ConfigError
from puna.model.sizes import ModelConfig
from puna.plan import speed
from puna.plan.devices import Device

HOUR, DAY = 3600.0, 86400.0
PUE = 1.1  # power usage effectiveness: what the data centre takes for each watt of a GPU
CARBON_KG_PER_KWH = 0.385  # the average of the USA in the paper


@dataclass(frozen=True)
class Cost:
    """Of all devices together; `usd` None without a price, energy and carbon None without watts."""

    seconds: float
    device_hours: float
    usd: float | None
    energy_kwh: float | None
    carbon_kg: float | None

    @property
    def days(self) -> float:
        """How long it takes."""
        return self.seconds / DAY


def cost(
    seconds: float, device: Device, devices: int = 1, usd_per_hour: float | None = None
) -> Cost:
    """The cost of `seconds` on `devices`; the device's own price where none is given."""
    hours = seconds * devices / HOUR
    price = device.usd_per_hour if usd_per_hour is None else usd_per_hour
    energy = None if device.watts is None else energy_kwh(hours, device.watts)
    return Cost(
        seconds=seconds,
        device_hours=hours,
        usd=None if price is None else hours * price,
        energy_kwh=energy,
        carbon_kg=None if energy is None else energy * CARBON_KG_PER_KWH,
    )


def energy_kwh(device_hours: float, watts: float, pue: float = PUE) -> float:
    """Wh = GPU-hours · watts · PUE (paper, section 6), in kWh."""
    return device_hours * watts * pue / 1000


def training_usd(
    config: ModelConfig,
    tokens: float,
    device: Device,
    devices: int = 1,
    usd_per_hour: float | None = None,
) -> float:
    """Money for training on `tokens`. Raises ConfigError where nobody says a price."""
    return _usd(
        speed.training_seconds(config, tokens, device, devices), device, devices, usd_per_hour
    )


def inference_usd(
    config: ModelConfig,
    device: Device,
    *,
    prompt_tokens: float,
    output_tokens: float,
    prompt: int = 512,
    kind: str = "BF16",
    batch: int = 1,
    context: int = 1024,
    devices: int = 1,
    usd_per_hour: float | None = None,
) -> float:
    """Money for reading and writing that many tokens in all, in prompts of `prompt` tokens.

    `batch` sequences are written at once, each with `context` positions before it on average.
    Raises ConfigError where nobody says a price.
    """
    reading = (
        prompt_tokens
        / prompt
        * speed.prefill_seconds(config, prompt, device, kind=kind, devices=devices)
    )
    rate = speed.decode_tokens_per_second(
        config, device, kind=kind, batch=batch, context=context, devices=devices
    )
    return _usd(reading + output_tokens / rate, device, devices, usd_per_hour)


def _usd(seconds: float, device: Device, devices: int, usd_per_hour: float | None) -> float:
    found = cost(seconds, device, devices, usd_per_hour).usd
    if found is None:
        raise ConfigError(
            f"{device.name} has no price an hour",
            hint="say what an hour of it is worth to you: --usd-per-hour, or "
            "--serve-usd-per-hour of one that serves",
        )
    return found
