"""How the model is run: what is decided for a machine, and that no choice changes the result."""

from __future__ import annotations

import io

import pytest
from tiny_training import run_config

from puna import hardware
from puna.console import Console, silent
from puna.errors import MachineError
from puna.hardware import Rate
from puna.model import count

torch = pytest.importorskip("torch")

from puna.model import flash  # noqa: E402
from puna.model.llama import Llama  # noqa: E402
from puna.native import kernels  # noqa: E402
from puna.train.execution import Execution, decide, micro_batch  # noqa: E402

# Sums over a batch in another order, relative to the largest gradient of a weight.
FLOAT32_TOLERANCE = 1e-5
# A compiled bf16 step rounds at other places, our kernels at others again; all are this near to
# the float32 gradients.
BF16_TOLERANCE = 0.05
# Our kernels, where there are any, and torch's, which PUNA_ISA=none leaves.
ISAS = [*kernels.usable_isas(), "none"]
KERNELS = {"attention_forward", "attention_backward", "weight_gradient"}
KERNEL_SHAPE = {"dim": 64, "heads": 2, "kv_heads": 1}  # heads of 32, which they take


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    """Half a second of measuring is not needed here."""
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: Rate(1e12, "not measured"))


def use_kernels(isa: str, monkeypatch) -> list[str]:
    """Run on that build; returns a list to which each call of a kernel adds its name."""
    called: list[str] = []

    class Spied:
        def __getattr__(self, name: str):
            called.append(name)
            return getattr(extension, name)

    if isa != "none":
        extension = kernels.extension()
        monkeypatch.setattr(kernels, "extension", Spied)
    monkeypatch.setattr(flash, "ISA", None if isa == "none" else isa)
    return called


def windows(count: int = 4, seed: int = 2) -> torch.Tensor:
    return torch.randint(320, (count, 33), generator=torch.Generator().manual_seed(seed))


def executed(config, seed: int = 1):
    """A fresh model under its plan."""
    model = Llama(config.model)
    model.initialise(torch.Generator().manual_seed(seed))
    return Execution(model, config, decide(config))


def gradients(run: Execution, parts: list[torch.Tensor], targets: int):
    """Loss a target and its gradients, added up over the parts as a step does."""
    total = 0.0
    for part in parts:
        loss = run.loss(part[:, :-1], part[:, 1:]) / targets
        loss.backward()
        total += loss.item()
    return total, {name: one.grad for name, one in run.model.named_parameters()}


def assert_close(found, wanted, tolerance):
    for name, gradient in wanted.items():
        bound = tolerance * gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=bound, rtol=0, msg=name)


@pytest.mark.parametrize("model", [{}, {"heads": 4, "kv_heads": 2}, {"tied_embeddings": True}])
@pytest.mark.parametrize("kind", ["none", "selective", "narrow", "full"])
def test_loss_and_gradients_are_those_of_the_plain_model(model, kind):
    config = run_config(model=model, activation_checkpointing=kind)
    run, batch = executed(config), windows()
    loss, found = gradients(run, [batch], targets=128)
    plain = Llama(config.model)
    plain.initialise(torch.Generator().manual_seed(1))
    logits = plain(batch[:, :-1]).flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-6)
    assert_close(found, {n: p.grad for n, p in plain.named_parameters()}, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_add_up_to_the_gradients_of_the_batch(size):
    batch = windows()
    whole_loss, whole = gradients(executed(run_config()), [batch], 128)
    loss, parts = gradients(executed(run_config()), list(batch.split(size)), 128)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert_close(parts, whole, FLOAT32_TOLERANCE)


def test_micro_batches_with_unequal_counts_of_targets_still_add_up():
    """Divided by the count of the batch, not each by its own (a bug of other stacks)."""
    from puna.train.loss import IGNORE

    batch = windows()
    targets = batch[:, 1:].clone()
    targets[0, 3:] = IGNORE
    targets[2, 20:] = IGNORE
    count_of_targets = int((targets != IGNORE).sum())
    results = []
    for size in (4, 1):
        run = executed(run_config())
        pairs = zip(batch[:, :-1].split(size), targets.split(size), strict=True)
        for ids, aims in pairs:
            (run.loss(ids, aims) / count_of_targets).backward()
        results.append({name: one.grad for name, one in run.model.named_parameters()})
    assert_close(results[1], results[0], FLOAT32_TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_score_is_the_loss_without_gradients(precision, monkeypatch):
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx512_bf16"}))
    run, batch = executed(run_config(precision=precision)), windows()
    loss = run.loss(batch[:, :-1], batch[:, 1:]).item()
    assert run.score(batch[:, :-1], batch[:, 1:]) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["none", "selective", "narrow", "full"])
def test_bf16_gradients_are_near_those_in_float32_and_weights_stay_float32(kind, isa, monkeypatch):
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx512_bf16"}))
    batch = windows()
    _, wanted = gradients(executed(run_config(model=KERNEL_SHAPE)), [batch], 128)
    called = use_kernels(isa, monkeypatch)
    options = {"precision": "bf16", "activation_checkpointing": kind}
    run = executed(run_config(model=KERNEL_SHAPE, **options))
    assert (run.dtype, run.plan.kernels) == (torch.bfloat16, isa)
    _, found = gradients(run, [batch], 128)
    assert set(called) == (KERNELS if isa != "none" else set())
    assert {one.dtype for one in run.model.parameters()} == {torch.float32}
    assert {one.dtype for one in found.values()} == {torch.float32}
    assert_close(found, wanted, BF16_TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own
@pytest.mark.skipif(hardware.compiler()[0] is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("precision", "isa"), [("fp32", "none"), *(("bf16", isa) for isa in ISAS)])
@pytest.mark.parametrize("kind", ["none", "selective", "narrow", "full"])
def test_compiled_equals_eager(precision, isa, kind, monkeypatch):
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx512_bf16"}))
    batch = windows()
    _, plain = gradients(executed(run_config(model=KERNEL_SHAPE)), [batch], 128)
    options = {"model": KERNEL_SHAPE, "precision": precision, "activation_checkpointing": kind}
    called = use_kernels(isa, monkeypatch)
    torch.compiler.reset()  # it keeps eight forms of a function, then refuses
    eager_loss, _ = gradients(executed(run_config(**options)), [batch], 128)
    called.clear()
    loss, found = gradients(executed(run_config(**options, compile="on")), [batch], 128)
    assert set(called) == (KERNELS if isa != "none" else set())
    assert loss == pytest.approx(eager_loss, rel=1e-6 if precision == "fp32" else 2e-3)
    assert_close(found, plain, FLOAT32_TOLERANCE if precision == "fp32" else BF16_TOLERANCE)


# Deciding


def test_precision_is_bf16_where_the_processor_has_it_and_the_reason_is_said(monkeypatch):
    for found, wanted, reason in (
        ({"avx512f", "avx512_bf16"}, "bf16", "CPU has avx512_bf16"),
        ({"avx512f"}, "fp32", "CPU has no bf16 instructions"),
    ):
        monkeypatch.setattr(hardware, "instruction_sets", lambda found=found: frozenset(found))
        plan = decide(run_config(precision="auto"))
        assert (plan.precision.dtype, plan.precision.reason) == (wanted, reason)
    with pytest.raises(MachineError, match="precision bf16 was asked for"):
        decide(run_config(precision="bf16"))


def test_without_a_compiler_auto_says_so_and_on_is_refused(monkeypatch):
    monkeypatch.setattr(hardware, "compiler", lambda: (None, "no C++ compiler (g++)"))
    plan = decide(run_config(compile="auto"))
    assert not plan.compiled
    assert "no C++ compiler" in plan.compile_reason
    with pytest.raises(MachineError, match=r"asked for, but there is no C\+\+ compiler") as caught:
        decide(run_config(compile="on"))
    assert "g++" in str(caught.value.hint)
    with pytest.raises(MachineError, match="recorded in this run"):
        decide(run_config(compile="auto"), recorded=True)


def test_auto_compiles_long_runs_only_and_a_resume_does_as_before(monkeypatch):
    monkeypatch.setattr(hardware, "compiler", lambda: ("g++", ""))
    assert not decide(run_config(compile="auto")).compiled
    long = run_config(compile="auto", steps=10_000_000)
    assert decide(long).compiled
    assert not decide(long, recorded=False).compiled
    assert decide(run_config(compile="auto"), recorded=True).compiled
    assert not decide(run_config(compile="off")).compiled
    assert decide(run_config(compile="on")).compiled


def test_an_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="device cuda was asked for"):
        decide(run_config(device="cuda"))


# Micro-batches


def plan_with_memory(monkeypatch, config, free_bytes: int):
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda *_: int(free_bytes))
    return decide(config)


def test_with_room_enough_the_batch_is_not_divided(monkeypatch):
    config = run_config()
    assert micro_batch(config, plan_with_memory(monkeypatch, config, 1 << 30), silent()) == 4


def test_with_less_and_less_room_it_is_divided_further_and_that_is_said(monkeypatch):
    config = run_config(model={"dim": 64, "layers": 8, "context_length": 128}, batch_tokens=8192)
    sizes, free = [], 1e9
    while free > count.optimizer_bytes(config.model):
        said = io.StringIO()
        plan = plan_with_memory(monkeypatch, config, free)
        try:
            sizes.append(micro_batch(config, plan, Console(stderr=said)))
        except MachineError:
            break
        assert (f"micro-batch: {sizes[-1]} of 64" in said.getvalue()) == (sizes[-1] < 64)
        free /= 1.1
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {64, 32, 16, 8, 4, 2, 1}


def test_a_model_that_cannot_fit_is_refused_before_any_work(monkeypatch):
    from puna.model.sizes import named
    from puna.train.settings import RunConfig, TrainConfig

    config = RunConfig(named("65B"), TrainConfig(batch_tokens=4096, compile="off", device="cpu"))
    plan = plan_with_memory(monkeypatch, config, 64e9)
    with pytest.raises(MachineError, match=r"about 10\d\d\.\d GB .* 64\.0 GB are free") as caught:
        micro_batch(config, plan, silent())
    assert "smaller model" in str(caught.value.hint)


def test_a_size_that_was_asked_for_is_taken():
    config = run_config(micro_batch_sequences=2)
    assert micro_batch(config, decide(config), silent()) == 2
