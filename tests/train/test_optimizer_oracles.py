# SPDX-License-Identifier: Apache-2.0
"""Our optimizers against their authors' packages: the same weights after 20 steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llamafactory.train.optim.adam_mini import block_count
from llamafactory.train.optim.algorithms import low_rank
from llamafactory.train.optim.algorithms.adam_mini import AdamMini
from llamafactory.train.optim.algorithms.block_adam import BlockAdam, RatioAdam
from llamafactory.train.optim.algorithms.low_rank import Apollo, GaLore
from llamafactory.train.optim.algorithms.together import Together

RATE, STEPS = 1e-3, 20
BETAS = {"betas": (0.9, 0.999)}
EPS = 1e-12  # so small that it does not show that GaLore's and APOLLO's AdamW add it elsewhere than torch's
ADAM = {"lr": RATE, "eps": 1e-8, **BETAS}
INNER = partial(torch.optim.AdamW, eps=EPS)
Make = Callable[[nn.Module], torch.optim.Optimizer]


class Net(nn.Module):
    """An embedding, three layers and a head, with matrices both tall and wide."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 10, bias=False)
        self.layers = nn.ModuleList([nn.Linear(10, 14), nn.Linear(14, 10), nn.Linear(10, 10)])
        self.lm_head = nn.Linear(10, 5, bias=False)
        draw = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=draw) * 0.4

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.lm_head(x)


def trained(make: Make, model: nn.Module | None = None, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the weights after 20 steps, each on other data."""
    model = (model or Net()).to(dtype)
    optimizer, draw = make(model), torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(16, 6, generator=draw).to(dtype), torch.randn(16, 5, generator=draw).to(dtype)
        model.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    return [weight.detach() for weight in model.parameters()]


def assert_same(ours: Make, theirs: Make, **more: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = trained(theirs, **more)
    got, start = trained(ours, **more), list(Net().parameters())
    moved = max(float((one - two.detach()).abs().max()) for one, two in zip(expected, start, strict=True))
    assert moved > 5 * RATE
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def split(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """Matrices of the layers, and everything else."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if "layers" in name and weight.ndim == 2]
    return matrices, [weight for name, weight in named if not ("layers" in name and weight.ndim == 2)]


def low_rank_groups(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    matrices, rest = split(model)
    base = {"lr": RATE, **BETAS}
    return [
        {"params": rest, "weight_decay": 0.0, **base},
        {"params": matrices, "weight_decay": 0.1, **base, **settings},
    ]


def their_groups(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    matrices, rest = split(model)
    return [{"params": rest, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1, **settings}]


@pytest.mark.parametrize("side", ["std", "reverse_std", "right", "left"])
def test_galore(side: str) -> None:
    galore_torch = pytest.importorskip("galore_torch")
    settings = {"rank": 3, "gap": 7, "scale": 0.5, "side": side, "projection": "svd"}
    theirs = {"rank": 3, "update_proj_gap": 7, "scale": 0.5, "proj_type": side}
    assert_same(
        lambda model: GaLore(low_rank_groups(model, **settings), INNER),
        lambda model: galore_torch.GaLoreAdamW(
            their_groups(model, **theirs), lr=RATE, eps=EPS, no_deprecation_warning=True
        ),
    )


def test_galore_around_adafactor() -> None:
    """The package's own Adafactor projects what it is given before anything else, as ours does from outside."""
    galore_torch = pytest.importorskip("galore_torch")
    from transformers import Adafactor

    plain = {"scale_parameter": False, "relative_step": False}
    settings = {"rank": 3, "gap": 7, "scale": 0.5, "side": "std", "projection": "svd"}
    theirs = {"rank": 3, "update_proj_gap": 7, "scale": 0.5, "proj_type": "std"}

    def without_decay(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [group | {"weight_decay": 0.0} for group in groups]

    assert_same(
        lambda model: GaLore(without_decay(low_rank_groups(model, **settings)), partial(Adafactor, **plain)),
        lambda model: galore_torch.GaLoreAdafactor(without_decay(their_groups(model, **theirs)), lr=RATE, **plain),
    )


def test_both_sides_are_projected_as_by_the_authors() -> None:
    """Off the diagonal a gradient projected so is rounding noise, which Adam enlarges: what is compared is one way."""
    from galore_torch.galore_projector import GaLoreProjector

    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 9, 6, generator=draw)
    theirs = GaLoreProjector(3, scale=2.0, proj_type="full")
    theirs.project(first, 0)
    weight = nn.Parameter(torch.zeros(9, 6))
    group = {"rank": 3, "gap": 7, "scale": 2.0, "side": "full", "projection": "svd"}
    ours = GaLore([{"params": [weight], "lr": 1.0, "weight_decay": 0.0, **group}], partial(torch.optim.SGD, lr=1.0))
    weight.grad = first
    ours.step()
    weight.data.zero_()
    weight.grad = second
    ours.step()
    torch.testing.assert_close(-weight.detach(), theirs.project_back(theirs.project(second, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("projection", ["svd", "random"])
@pytest.mark.parametrize(("scale_type", "front"), [("channel", False), ("channel", True), ("tensor", False)])
def test_apollo(projection: str, scale_type: str, front: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    apollo_torch = pytest.importorskip("apollo_torch")
    if projection == "random":  # ours draws, and the package takes what it drew
        drawn: dict[tuple[int, ...], list[Tensor]] = {}
        plain = low_rank._projection

        def recorded(gradient: Tensor, group: dict[str, Any], number: int) -> dict[str, Tensor]:
            found = plain(gradient, group, number)
            for matrix in found.values():
                drawn.setdefault(tuple(matrix.shape), []).append(matrix * math.sqrt(group["rank"]))
            return found

        monkeypatch.setattr(low_rank, "_projection", recorded)
        monkeypatch.setattr("apollo_torch.random_projector.stable_randn", lambda shape, **_: drawn[tuple(shape)].pop(0))
    settings = {"rank": 3, "gap": 7, "scale": 4.0, "side": "std", "projection": projection, "scale_type": scale_type}
    theirs = {"rank": 3, "update_proj_gap": 7, "scale": 4.0, "proj_type": "std", "proj": projection}
    ours_first = trained(lambda model: Apollo(low_rank_groups(model, **settings, scale_front=front), INNER))
    expected = trained(
        lambda model: apollo_torch.APOLLOAdamW(
            their_groups(model, **theirs, scale_type=scale_type), lr=RATE, eps=EPS, scale_front=front
        )
    )
    for mine, other in zip(ours_first, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def _layers(model: Any) -> list[list[nn.Parameter]]:
    return [list(layer.parameters()) for layer in model.layers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("mode", "interval", "start"), [("ascending", 4, None), ("descending", 5, None), ("fixed", 3, 1)]
)
def test_badam_by_layers(
    mode: str, interval: int, start: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    badam = pytest.importorskip("badam")
    monkeypatch.setattr("badam.block_optim.gc.collect", lambda: 0)  # seconds, in a process that holds much

    def ours(model: nn.Module) -> torch.optim.Optimizer:
        groups = [{"params": list(model.parameters()), "weight_decay": 0.1, **ADAM}]
        return BlockAdam(groups, _layers(model), mode, interval, start)

    def theirs(model: nn.Module) -> torch.optim.Optimizer:
        base = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
        options = {"switch_block_every": interval, "switch_mode": mode, "start_block": start, "verbose": 0}
        return badam.BlockOptimizer(base, list(model.named_parameters()), **options)

    expected = trained(theirs, dtype=dtype)
    for mine, other in zip(trained(ours, dtype=dtype), expected, strict=True):
        assert torch.equal(mine, other)


def test_badam_visits_each_block_once_in_a_random_order() -> None:
    seen: list[int] = []
    model: Any = Net()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.0, **ADAM}]
    optimizer = BlockAdam(groups, _layers(model), "random", 2, seed=3, told=seen.append)
    for _ in range(16):
        optimizer.step()
    assert len(seen) == 9 and all(sorted(seen[i : i + 3]) == [0, 1, 2] for i in (0, 3, 6))
    assert [weight.requires_grad for weight in model.parameters()].count(True) == 2


def test_badam_by_ratio() -> None:
    badam = pytest.importorskip("badam")
    assert_same(
        lambda model: RatioAdam([{"params": split(model)[0], **ADAM}], 0.2, 6),
        lambda model: badam.BlockOptimizerRatio(
            [{"params": split(model)[0]}], list(model.named_parameters()), update_ratio=0.2, switch_every=6, lr=RATE
        ),
    )


def test_badam_by_scattered_entries_changes_as_many_and_then_others() -> None:
    weight = nn.Parameter(torch.zeros(20, 10))
    optimizer = RatioAdam([{"params": [weight], **ADAM}], 0.1, 3, scatter=True)
    changed = []
    for _ in range(30):
        weight.grad, before = torch.ones_like(weight), weight.detach().clone()
        optimizer.step()
        changed.append((weight != before).flatten())
    assert all(int(one.sum()) == 20 for one in changed)
    assert torch.equal(changed[0], changed[2]) and not (changed[2] & changed[3]).any()
    assert int(torch.stack(changed).any(0).sum()) == 200, "after ten blocks of a tenth every entry was trained"
    assert changed[0].nonzero().flatten().diff().max() > 1


def test_adam_mini() -> None:
    adam_mini = pytest.importorskip("adam_mini")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, attention_bias=True,
    )  # fmt: skip
    ids = torch.randint(40, (STEPS, 3, 9), generator=torch.Generator().manual_seed(0))

    def run(make: Make) -> list[Tensor]:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        optimizer = make(model)
        for batch in ids:
            model.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
        return [weight.detach() for weight in model.parameters()]

    def ours(model: nn.Module) -> torch.optim.Optimizer:
        return AdamMini(
            [
                {"params": [weight], **ADAM, "weight_decay": 0.0 if "norm" in name or "bias" in name else 0.1,
                 "blocks": block_count(name, weight, (4, 2))}
                for name, weight in model.named_parameters()
            ]
        )  # fmt: skip

    expected = run(
        lambda model: adam_mini.Adam_mini(
            model.named_parameters(), lr=RATE, weight_decay=0.1, dim=16, n_heads=4, n_kv_heads=2, verbose=False
        )
    )
    for mine, other in zip(run(ours), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_muon_beside_adamw() -> None:
    """As one, they do what torch's two do apart, whose state a checkpoint keeps and gives back."""

    def parts(model: nn.Module) -> list[torch.optim.Optimizer]:
        matrices, rest = split(model)
        muon = torch.optim.Muon([{"params": matrices}], lr=RATE, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW([{"params": rest}], lr=RATE)]

    class Apart:
        def __init__(self, both: list[torch.optim.Optimizer]) -> None:
            self.both = both

        def step(self) -> None:
            for one in self.both:
                one.step()

    def resumed(model: nn.Module) -> torch.optim.Optimizer:
        first = Together(parts(model))
        second = Together(parts(model))
        second.load_state_dict(first.state_dict())
        return second

    expected = trained(lambda model: Apart(parts(model)))  # type: ignore[arg-type, return-value]
    for make in (lambda model: Together(parts(model)), resumed):
        assert all(torch.equal(mine, other) for mine, other in zip(trained(make), expected, strict=True))


@pytest.mark.parametrize(("rank", "width"), [(2, 64), (8, 32)])
def test_muon_moves_both_matrices_of_a_pair_alike(rank: int, width: int) -> None:
    """Unlike torch's own default, by which B moves sqrt(width / rank) times as far as A."""
    draw = torch.Generator().manual_seed(0)
    pair = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((rank, width), (width, rank))]
    start = [weight.detach().clone() for weight in pair]
    muon = torch.optim.Muon(pair, lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for weight in pair:
        weight.grad = torch.randn(weight.shape, generator=draw)
    muon.step()
    down, up = (float((weight - old).detach().square().mean().sqrt()) for weight, old in zip(pair, start, strict=True))
    assert down == pytest.approx(up, rel=0.15) and down == pytest.approx(0.2, rel=0.3)


def test_layer_by_layer_is_the_same_and_no_two_gradients_are_held() -> None:
    settings = {"rank": 3, "gap": 7, "scale": 0.5, "side": "std", "projection": "svd"}

    def whole(model: nn.Module) -> torch.optim.Optimizer:
        return GaLore(low_rank_groups(model, **settings), INNER)

    held: list[int] = []

    def by_layer(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = GaLore(low_rank_groups(model, **settings), INNER)
        optimizer.register_step_pre_hook(
            lambda *_: held.append(sum(weight.grad is not None for weight in model.parameters()))
        )
        optimizer.step_in_backward()
        return optimizer

    for mine, other in zip(trained(by_layer), trained(whole), strict=True):
        assert torch.equal(mine, other)
    assert max(held) == 1
