"""Measures of maps against closed forms, Quantus, captum, scipy, and plain loops; and against maps that are noise."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from db.records import Entry
from pipeline.analysis.evaluation import MEASURES
from pipeline.analysis.evaluation.measures import Measured
from pipeline.analysis.evaluation.randomisation import layers, randomised, stages
from pipeline.analysis.evaluation.removal import area, curve, impute, places
from pipeline.analysis.evaluation.stability import infidelity, max_sensitivity, squares
from pipeline.analysis.evaluation.subject import RunEngine, Score, Subject
from pipeline.analysis.statistics import bootstrap_mean, cosines, rank_correlations
from pipeline.attribution import baseline_stack, integrated_gradients
from pipeline.attribution.ensemble import distance
from pipeline.datasets.decoder import Picture
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import ModelSpec, Preprocess, RunSpec
from tests.laws.quantus_figures import FILLED, PERCENTAGES, STEP, case
from tests.support.networks import relu_cnn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.metrics import infidelity as captum_infidelity
    from captum.metrics import sensitivity_max

QUANTUS = json.loads((Path(__file__).parent / "quantus.json").read_text())
BASELINES = ("black", "uniform:n=2")


def probability(model: nn.Module) -> Score:
    return lambda pixels, targets: model(pixels).softmax(1).gather(1, targets[:, None])[:, 0]


def output(model: nn.Module) -> Score:
    return lambda pixels, targets: model(pixels).gather(1, targets[:, None])[:, 0]


def in_order(count: int, pixels: int) -> Tensor:
    return torch.arange(pixels).repeat(count, 1)


def subject_of(
    members: list[nn.Module], images: Tensor, targets: Tensor, maps: Tensor, baselines: tuple[str, ...] = BASELINES
) -> Subject:
    """Some images (N, 1, 16, 16) of a run over digits."""
    spec = ModelSpec("a.py:make", None, "ab" * 32, None, Preprocess(16, 16, 1), tuple("0123456789"))
    declared = tuple(Baseline.parse(text) for text in baselines)
    run = RunSpec((spec,) * len(members), declared, n_steps=12, nodes="uniform")
    pictures = [Picture(Entry(i, f"{i}", "1"), f"{i:064}", image.numpy()) for i, image in enumerate(images)]
    return Subject(RunEngine(run, members, images[:4].numpy(), {}, "cpu", False), pictures, targets, maps, 0)


@pytest.fixture(scope="module")
def subject(digits: tuple[Tensor, Tensor]) -> Subject:
    """Twelve scans that two networks, briefly trained, are sure of."""
    (images, labels), trained = digits, []
    for seed in (0, 1):
        member = relu_cnn(seed)
        member(images[:2])
        optimizer = torch.optim.Adam(member.parameters(), lr=1e-2)
        for batch in torch.arange(1400).repeat(3).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(member(images[batch]), labels[batch]).backward()
            optimizer.step()
        trained.append(member.eval().requires_grad_(requires_grad=False))
    images = images[1400:]
    probabilities = sum(member(images).softmax(1) for member in trained)
    sure = probabilities.amax(1).argsort(descending=True)[:200:17]  # 12 of the 200 surest
    images, targets = images[sure], probabilities[sure].argmax(1)
    bare = subject_of(trained, images, targets, torch.zeros_like(images))
    return subject_of(trained, images, targets, bare.found.mean)


def test_deletion_is_pixel_flipping_of_quantus() -> None:
    model, images, targets, maps = case()
    counts = torch.arange(0, 101, STEP)
    place = places(maps.flatten(1), in_order(6, 100))
    found = curve(probability(model), images, torch.zeros_like(images), targets, place, counts, batch=7)
    np.testing.assert_allclose(found[:, 1:], QUANTUS["deletion"], atol=2e-6)  # theirs is in float32


def test_imputation_and_road_are_those_of_quantus() -> None:
    model, images, targets, maps = case()
    place = places(maps.flatten(1), in_order(6, 100)).view(6, 10, 10)
    for index, percent in enumerate(PERCENTAGES):
        filled = impute(images, place < percent, torch.zeros_like(images), tolerance=1e-10)
        theirs = np.asarray(QUANTUS["imputed"])[:, index]
        np.testing.assert_allclose(filled[:FILLED].flatten(1), theirs, atol=1e-6)
        kept = (model(filled).argmax(1) == targets).double().mean().item()
        assert kept == pytest.approx(QUANTUS["road"][str(percent)])


def test_a_large_hole_is_filled_by_its_neighbours() -> None:
    """A plane is its own weighted mean wherever all neighbours are there, so a hole in it is filled exactly."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 0.5, 40), indexing="ij")
    plane = (x + y)[None, None]
    removed = torch.zeros(1, 40, 40, dtype=torch.bool)
    removed[:, 2:-2, 2:-2] = True
    torch.testing.assert_close(impute(plane, removed, torch.zeros_like(plane)), plane, rtol=0, atol=2e-4)


def test_noise_is_added_to_what_is_removed_alone() -> None:
    pixels, removed = torch.rand(2, 3, 6, 6), torch.rand(2, 6, 6) < 0.4
    apart = impute(pixels, removed, torch.ones_like(pixels)) - impute(pixels, removed, torch.zeros_like(pixels))
    torch.testing.assert_close(apart, removed[:, None].expand_as(pixels).float())


def test_a_deletion_curve_by_hand() -> None:
    """The answer is the mean of four pixels 0.4, 0.1, 0.3, 0.2, and the map orders them rightly."""
    image = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)[None, None]
    place = places(image.flatten(1), in_order(1, 4))
    counts = torch.arange(5)

    def mean(pixels: Tensor, _: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3))

    zero, targets = torch.zeros_like(image), torch.zeros(1, dtype=torch.int64)
    deleted = curve(mean, image, zero, targets, place, counts, batch=2)
    torch.testing.assert_close(deleted, torch.tensor([[0.25, 0.15, 0.075, 0.025, 0]], dtype=torch.float64))
    assert area(deleted, counts).item() == pytest.approx((0.125 + 0.15 + 0.075 + 0.025) / 4)
    inserted = curve(mean, zero, image, targets, place, counts, batch=2)
    torch.testing.assert_close(inserted, 0.25 - deleted)


def test_ties_are_in_the_order_of_the_shuffle() -> None:
    scores, shuffle = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[3, 0, 1, 2]])
    assert places(scores, shuffle).tolist() == [[2, 0, 3, 1]]


def test_infidelity_is_captums() -> None:
    model, images, targets, maps = case()
    masks = torch.rand(6, 4, 10, 10, generator=torch.Generator().manual_seed(0)) < 0.3
    zero = torch.zeros(1, 1, 1, 10, 10, dtype=torch.float64)
    ours, _ = infidelity(output(model), images, targets, maps, zero, torch.ones(1), masks, batch=7)

    def perturbed(inputs: Tensor) -> tuple[Tensor, Tensor]:
        which = masks.flatten(0, 1)[:, None].double()
        return which, inputs * (1 - which)

    theirs = captum_infidelity(model, perturbed, images, maps, target=targets, n_perturb_samples=4)
    torch.testing.assert_close(ours, theirs)


def test_max_sensitivity_is_captums() -> None:
    model, images, targets, _ = case()
    noises = 0.05 * torch.randn(3, *images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    @torch.enable_grad()  # captum asks without
    def explain(inputs: Tensor, target: Tensor = targets) -> Tensor:
        return integrated_gradients(model, inputs, target, baselines=torch.zeros(1, 1, 1, 10, 10), n_steps=8).mean

    ours = max_sensitivity(explain, images, explain(images), noises)
    theirs = sensitivity_max(
        lambda inputs, target: (explain(inputs[0] if isinstance(inputs, tuple) else inputs, target),),
        images,
        lambda inputs: inputs + noises.transpose(0, 1).flatten(0, 1),
        n_perturb_samples=3,
        target=targets,
    )
    torch.testing.assert_close(ours, theirs)


def test_infidelity_of_a_linear_model_is_zero() -> None:
    """Integrated gradients of a linear model have no infidelity and others have."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, 3)).double()
    images, targets = torch.rand(4, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    kinds = [Baseline.parse(text) for text in ("black", "uniform:n=2", "blurred:sigma=2,weight=3")]
    stack, weights = baseline_stack(kinds, images, list("abcd"))
    found = integrated_gradients(model, images, targets, baselines=stack, baseline_weights=weights, n_steps=2).mean
    masks = torch.rand(4, 5, 6, 6) < 0.5
    for maps in (found, found.sum(1, keepdim=True)):  # as stored with channels "sum"
        errors, changes = infidelity(output(model), images, targets, maps, stack, weights, masks, batch=9)
        assert errors.max() < 1e-20
        assert changes.min() > 1e-6
    errors, changes = infidelity(output(model), images, targets, 0 * found, stack, weights, masks, batch=9)
    torch.testing.assert_close(errors, changes)  # a map of zeros: a relative infidelity of 1


def test_squares_are_squares_inside_the_image(subject: Subject) -> None:
    found = squares(subject)
    rows, columns = found.any(3).sum(2), found.any(2).sum(2)
    assert (rows == columns).all()
    assert (found.sum((2, 3)) == rows * columns).all()
    assert rows.min() == 2
    assert rows.max() == 8
    assert found.any(1).flatten(1).double().mean() > 0.6  # they lie everywhere


def test_noise_for_a_map_scores_worse_than_integrated_gradients(subject: Subject) -> None:
    noise = torch.randn(subject.maps.shape, generator=torch.Generator().manual_seed(0)) * subject.maps.std()
    targets, images = subject.targets, subject.pixels
    blind = subject_of(list(subject.engine.members), images, targets, noise)
    means = []
    for one in (subject, blind):
        found = Measured()
        for name in ("reproduction", "deletion", "insertion", "road", "infidelity"):
            found.merge(MEASURES[name](one))
        weights = found.weights["infidelity_relative"]
        means.append({name: values.mean() for name, values in found.values.items()})
        means[-1]["infidelity_relative"] /= weights.mean()
        interval = bootstrap_mean(found.values["deletion_gain"], seed=0)
        assert (interval.low > 0) == (one is subject)
    true, false = means
    assert true["reproduction"] < 1e-6
    assert false["reproduction"] > 1
    assert true["deletion_auc"] < false["deletion_auc"] - 0.1
    assert true["insertion_auc"] > false["insertion_auc"] + 0.05
    assert true["road_gap"] > 0.2
    assert abs(false["road_gap"]) < 0.1
    assert true["infidelity_relative"] < 0.3
    assert false["infidelity_relative"] > 0.8


def test_layers_are_in_the_order_of_their_calls(subject: Subject) -> None:
    """Layers go from the first called to the last and the cascade goes on."""
    member = subject.engine.members[0]
    names = layers(member, subject.pixels[:1])
    assert names == ["0", "1", "3", "6"]  # convolution, batch norm, convolution, linear
    assert stages(4) == [1, 2, 3, 4]
    assert stages(53) == [11, 22, 32, 43, 53]
    before = {name: value.clone() for name, value in member.state_dict().items()}
    top, more = (randomised(member, names[::-1][:count], 3).state_dict() for count in (1, 2))
    assert not torch.equal(top["6.weight"], before["6.weight"])
    assert torch.equal(top["6.weight"], more["6.weight"])
    assert torch.equal(top["3.weight"], before["3.weight"])
    assert not torch.equal(more["3.weight"], before["3.weight"])
    assert all(torch.equal(value, before[name]) for name, value in member.state_dict().items())


def test_any_module_can_be_randomised() -> None:
    """Attention keeps a projection that is never called, and a scale is a bare parameter of its module."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)  # registered first, called last
            self.scale = nn.Parameter(torch.arange(8.0))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2).transpose(1, 2) * self.scale  # (N, 4, 8)
            return self.head(self.attention(x, x, x)[0].mean(1))

    block = Block().eval()
    names = layers(block, torch.rand(1, 8, 2, 2))
    assert names == ["", "attention", "attention.out_proj", "head"]
    made = dict(randomised(block, names, 0).named_parameters())
    assert made["scale"].tolist() != block.scale.tolist()
    assert sorted(made["scale"].tolist()) == block.scale.tolist()
    assert not torch.equal(made["attention.in_proj_weight"], block.attention.in_proj_weight)
    assert not torch.equal(made["attention.out_proj.weight"], block.attention.out_proj.weight)


def test_maps_follow_the_models_weights(subject: Subject) -> None:
    found = MEASURES["randomisation"](subject)
    curve = found.curves["randomisation"]
    assert curve.shape == (12, 4)
    assert abs(curve[:, -1].mean()) < 0.2
    assert curve.max() < 0.9


def test_baselines_of_a_run_are_held_against_each_other(subject: Subject) -> None:
    pairs = MEASURES["baselines"](subject).pairs
    assert ("black", "uniform:n=2") in pairs
    assert ("this run", "average of 4 images of the data set") in pairs
    alone = subject.explain(baselines=[Baseline.parse("black")]).mean.flatten(1)
    noise = subject.explain(baselines=[Baseline.parse("uniform:n=2")]).mean.flatten(1)
    expected = torch.nn.functional.cosine_similarity(alone.double(), noise.double())
    np.testing.assert_allclose(pairs["black", "uniform:n=2"][:, 0], expected, atol=1e-6)
    torch.testing.assert_close((alone + noise) / 2, subject.found.mean.flatten(1), rtol=1e-3, atol=1e-5)
    for values in pairs.values():
        assert ((values[:, :2] >= -1.0001) & (values[:, :2] <= 1.0001)).all()
        assert ((values[:, 2] > 0) & (values[:, 2] <= 2)).all()


def test_agreement_is_the_share_of_weight_of_one_sign(subject: Subject) -> None:
    """Agreement is the share of the weight where members have one sign."""
    found = MEASURES["agreement"](subject).values["sign_agreement_all"]
    one, other = (subject.explain(members=[m, m]).mean.flatten(1).double() for m in subject.engine.members)
    mean = (one + other) / 2
    expected = (mean.abs() * (one.sign() == other.sign())).sum(1) / mean.abs().sum(1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_figures_of_pairs() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 6, (5, 40)), random.integers(0, 6, (5, 40))  # with many ties
    found = rank_correlations(one, other)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    constant, rising = np.ones((1, 9)), np.arange(9.0)[None]
    assert (rank_correlations(constant, constant), rank_correlations(constant, rising)) == (1, 0)
    assert np.isnan(rank_correlations(constant, rising, reference=True))
    assert rank_correlations(rising, constant, reference=True) == 0
    assert cosines(rising, -rising) == pytest.approx(-1)
    tensor = torch.from_numpy(rising)
    assert (distance(tensor, tensor).item(), distance(tensor, -tensor).item()) == (0, 2)


@pytest.mark.slow
def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for trial in range(100):
        found = bootstrap_mean(random.normal(1, 2, 64), seed=trial)
        held += found.low <= 1 <= found.high
    assert 88 <= held <= 100  # 95 expected, a standard deviation of 2.2
    exact = bootstrap_mean(np.full(5, 3.0), seed=0)
    assert (exact.value, exact.low, exact.high, exact.images) == (3, 3, 3, 5)
    assert bootstrap_mean(np.array([1, np.nan, 3]), seed=0).images == 2
    assert bootstrap_mean(np.array([1.0, 3]), np.array([2.0, 6]), seed=0).value == 0.5
