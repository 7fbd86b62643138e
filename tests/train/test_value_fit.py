"""A value head in closed form: what is linear in the states is found, what is noise is not."""

import pytest
import torch
from exact_models import VOCABULARY, small_model

from understudy.core.rows import Entry, Row
from understudy.models.lora import inject_lora
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.train.value_fit import Known, Moments, fit
from understudy.train.value_head import ValueHead


def moments(states: torch.Tensor, returns: torch.Tensor) -> Moments:
    found = Moments.of(states.shape[1])
    for at in range(0, len(states), 7):  # in parts, as micro-batches come
        found.add(states[at : at + 7], returns[at : at + 7])
    return found


def halves(n: int, noise: float) -> tuple[list[Moments], torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(n)
    states = torch.randn(2 * n, 5, generator=draw, dtype=torch.float64)
    true = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0, 0.25], dtype=torch.float64)
    returns = states @ true[:-1] + true[-1]
    returns += noise * torch.randn(2 * n, generator=draw, dtype=torch.float64)
    return [moments(states[:n], returns[:n]), moments(states[n:], returns[n:])], true, returns


def test_what_is_linear_is_found() -> None:
    both, true, _ = halves(60, 0.0)
    found, explained = fit(both, 120)
    assert explained > 0.999
    assert found.tolist() == pytest.approx(true.tolist(), abs=2e-3)


def test_half_of_noise_is_half_explained() -> None:
    both, true, returns = halves(4000, float(torch.tensor([1.0, 2.0, 0.5, 3.0]).norm()))
    found, explained = fit(both, 8000)
    assert explained == pytest.approx(0.5, abs=0.05)
    assert found.tolist() == pytest.approx(true.tolist(), abs=0.3)
    assert float(found[-1]) == pytest.approx(float(returns.mean()), abs=0.3)


def test_noise_alone_is_answered_with_the_mean() -> None:
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(40, 30, generator=draw, dtype=torch.float64)
    returns = torch.randn(40, generator=draw, dtype=torch.float64)
    both = [moments(states[:20], returns[:20]), moments(states[20:], returns[20:])]
    found, explained = fit(both, 4000)
    assert explained == 0.0
    assert found[:-1].abs().max() == 0
    assert float(found[-1]) == pytest.approx(float(returns.mean()))


def test_a_fit_has_few_degrees_of_freedom_beside_the_episodes() -> None:
    both, _, returns = halves(60, 0.0)
    whole = both[0] + both[1]
    assert whole.freedom(0.0) == pytest.approx(5)
    assert whole.freedom(1e9) == pytest.approx(0, abs=1e-3)
    found, explained = fit(both, 4)  # whose returns five numbers could learn by heart
    assert explained == 0.0
    assert float(found[-1]) == pytest.approx(float(returns.mean()))


def test_errors_are_those_of_the_entries() -> None:
    draw = torch.Generator().manual_seed(2)
    states = torch.randn(30, 4, generator=draw, dtype=torch.float64)
    returns = torch.randn(30, generator=draw, dtype=torch.float64) + 3
    found = moments(states, returns)
    by = found.fit_F(0.1)
    said = states @ by[:-1] + by[-1]
    assert found.error(by) == pytest.approx(float((said - returns).square().sum()))
    grid = [by + 0.01 * torch.eye(5, dtype=torch.float64)[i] * s for i in range(5) for s in (1, -1)]
    plain = found.fit_F(0.0)
    assert all(found.error(plain) <= found.error(other) for other in (by, *grid))


def test_what_was_known_before_fades_as_if_it_counted_less() -> None:
    draw = torch.Generator().manual_seed(3)
    states = torch.randn(40, 4, generator=draw, dtype=torch.float64)
    returns = torch.randn(40, generator=draw, dtype=torch.float64)

    def known(rows: range) -> Known:
        a, b = [r for r in rows if r % 2], [r for r in rows if not r % 2]
        return Known((moments(states[a], returns[a]), moments(states[b], returns[b])), len(rows))

    both = known(range(20, 40)).after(known(range(20)), 0.5)
    weight = torch.tensor([0.5] * 20 + [1.0] * 20, dtype=torch.float64)
    ones = torch.cat([states, torch.ones(40, 1, dtype=torch.float64)], 1)
    root = weight.sqrt()[:, None]
    least = torch.linalg.lstsq(ones * root, returns[:, None] * root).solution.squeeze(1)
    whole = both.halves[0] + both.halves[1]
    assert whole.fit_F(0.0).tolist() == pytest.approx(least.tolist())
    assert (whole.count, both.episodes) == (30, 30)
    again = Known.of(both.tensors())
    assert all(torch.equal(a, b) for a, b in zip(again.tensors(), both.tensors(), strict=True))


def test_states_that_tell_nothing_are_answered_with_the_mean() -> None:
    returns = torch.arange(8.0, dtype=torch.float64)
    zeros = moments(torch.zeros(8, 3), returns)
    assert fit([zeros, zeros], 4000)[0].tolist() == [0.0, 0.0, 0.0, 3.5]
    assert Known((zeros, zeros), 8).finite
    spoilt = moments(torch.full((8, 3), torch.nan), returns)
    assert not Known((zeros, spoilt), 8).finite
    found, explained = fit([zeros, spoilt], 4000)
    assert (found.tolist(), explained) == ([0.0, 0.0, 0.0, 3.5], 0.0)


def valued_rows(model: torch.nn.Module, n: int, seed: int) -> list[Row]:
    """Rows whose returns are linear in the model's states."""
    truth = ValueHead.of(model)
    with torch.no_grad():
        truth.weight.normal_(generator=torch.Generator().manual_seed(0))
        truth.bias.fill_(2.0)
    draw = torch.Generator().manual_seed(seed)
    rows = [
        Row(
            tuple(torch.randint(1, VOCABULARY, (24,), generator=draw).tolist()),
            tuple(Entry(at, 1, "rl", 1.0, 0.0, f"e{n}") for at in (5, 9, 23)),
        )
        for n in range(n)
    ]
    told = Trainer(model, TrainerConfig(), value_head=truth).values(rows)
    return [
        Row(r.ids, (*r.entries, *(Entry(e.position, 0, "value", 1.0, v, e.sample_id)
                                  for e, v in zip(r.entries, own, strict=True))))
        for r, own in zip(rows, told, strict=True)
    ]  # fmt: skip


def test_fits_that_build_on_each_other_find_what_one_batch_alone_cannot() -> None:
    model = small_model()
    inject_lora(model)
    width = model.get_output_embeddings().weight.shape[1]
    batches = [valued_rows(model, 3 * width, seed) for seed in range(12)]
    alone, going_on = (
        Trainer(model, TrainerConfig(), value_head=ValueHead.of(model)) for _ in range(2)
    )
    explained = [(alone.fit_values(b), going_on.fit_values(b, keep=0.9)) for b in batches]
    assert explained[0][0] == explained[0][1]
    assert explained[-1][1] > 0.9 > explained[-1][0]
    held_out = valued_rows(model, 50, 99)
    returns = torch.tensor([[e.anchor for e in r.entries if e.stream == "value"] for r in held_out])
    off = [
        float((torch.tensor(t.values(held_out))[:, :3] - returns).square().mean())
        for t in (alone, going_on)
    ]
    assert off[1] < 0.3 * off[0]


def test_a_trainer_that_is_restored_fits_as_the_one_that_went_on() -> None:
    model = small_model()
    inject_lora(model)
    first, second = valued_rows(model, 60, 1), valued_rows(model, 60, 2)
    whole, resumed, forgetful = (
        Trainer(model, TrainerConfig(), value_head=ValueHead.of(model)) for _ in range(3)
    )
    whole.fit_values(first, keep=0.7)
    resumed.restore(list(whole.tensors()), 0, 0)
    said = [t.fit_values(second, keep=0.7) for t in (whole, resumed, forgetful)]
    assert said[0] == said[1]
    heads = [t.value_head.tensors() for t in (whole, resumed, forgetful) if t.value_head]
    assert all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])
    assert not all(torch.equal(heads[0][k], heads[2][k]) for k in heads[0])


def test_a_trainers_head_foretells_what_its_states_tell() -> None:
    model = small_model()
    inject_lora(model)
    given = valued_rows(model, 600, 3)
    told = [[e.anchor for e in r.entries if e.stream == "value"] for r in given]
    config = TrainerConfig(max_tokens_per_microbatch=100)
    fitted = ValueHead.of(model)
    trainer = Trainer(model, config, value_head=fitted)
    explained = trainer.fit_values(given)
    assert explained > 0.95
    said = torch.tensor(trainer.values(given))[:, :3]
    spread = torch.tensor(told).std()
    assert float((said - torch.tensor(told)).abs().mean()) < 0.1 * float(spread)
    renamed = [
        Row(r.ids, tuple(e._replace(sample_id=f"played-{n}") for e in r.entries))
        for n, r in enumerate(given)
    ]
    # episodes that were played have other names in each run
    assert 1 - trainer.fit_values(renamed) == pytest.approx(1 - explained, rel=1e-3)
    with pytest.raises(ValueError, match="no value head"):
        Trainer(model, config).fit_values(given)
