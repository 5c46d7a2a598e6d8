"""What `explain` claims of a regularizer, its reference and its engine, against facts proven in the literature."""

import pytest
from unit.explain.printed import told

from align.config import registry
from align.oracle import estimator_bias


def test_a_biased_form_says_so_and_why_it_runs(parts):
    sections = told(parts, regularizers={"kl": {"estimator": "k3", "allow_biased": True, "coefficient": 0.04}})
    rows = sections["regularizer kl"]
    assert rows["value"].startswith("unbiased")
    assert rows["gradient"] == "that of forward_kl, not of this divergence; not weighed by ρ, as published"
    assert rows["biased"].startswith("allowed by allow_biased: true. k3 in the loss descends the forward KL(ref‖π)")
    assert "or set allow_biased" not in rows["biased"]
    assert "biased" not in told(parts)["regularizer kl"]


def test_weights_and_bounds_are_told(parts):
    regularizers = {
        "plain": {"coefficient": 0.1},
        "exact": {"coefficient": 0.1, "estimator": "exact"},
        "tied": {"coefficient": 0.1, "ratio_to": "sampler", "ratio_cap": 2.0, "beyond_cap": "mask", "clamp": 5.0, "credit": "sequence"},
        "old": {"coefficient": 0.1, "estimator": "k1", "placement": "reward"},
    }
    sections = told(parts, regularizers=regularizers)
    rows = {name: sections[f"regularizer {name}"] for name in regularizers}
    assert rows["plain"]["gradient"] == "that of this divergence; weighed by ρ = π/π_old"
    assert rows["plain"]["clamp"] == "|log π/ref| of a token counts up to 20 nats; biased where that cuts"
    assert rows["exact"]["gradient"] == "that of this divergence; nothing is sampled at a visited state: no ratio enters"
    assert "clamp" not in rows["exact"]
    assert rows["tied"]["gradient"] == (
        "that of this divergence; weighed by π/μ (μ: the sampler) of the answer, above 2 masked: biased where that cuts"
    )
    assert rows["tied"]["clamp"] == "|log π/ref| of an answer counts up to 5 nats; biased where that cuts"
    assert rows["old"]["gradient"] == "that of this divergence; weighed by the surrogate's own ratio, as published"


def test_references_alike_are_loaded_once(parts):
    ema = {"reference": {"name": "ema", "rate": 0.5}, "coefficient": 0.1}
    summed = {"coefficient": 0.2, "credit": "summed"}
    loaded = told(parts, regularizers={"a": {"coefficient": 0.1}, "b": ema, "c": summed})["what is loaded"]
    assert loaded["reference"].splitlines() == [
        "frozen for a, c: one copy of the trained parameters",
        "ema(rate=0.5, every=1) for b: one copy of the trained parameters",
    ]
    assert loaded["engine"].startswith(f"2 × {parts}:Silent: Answers nothing.")
    assert loaded["processes"] == "ray actors: 1 learner, 2 rollout, 1 reward"


@pytest.mark.parametrize(
    ("changes", "nats"),
    [({}, "0.001"), ({"model": {"config": {"model_type": "qwen2"}, "dtype": "bfloat16"}}, "0.05"), ({"max_engine_gap": 0.2}, "0.2")],
)
def test_the_engine_gap_that_stops_a_run_is_told(parts, changes, nats):
    assert told(parts, **changes)["what is loaded"]["engine gap"] == f"above {nats} nats a token the run stops (max_engine_gap)"


def test_a_regularizer_of_ones_own_is_told_by_its_keys(parts):
    sections = told(parts, regularizers={"mine": {"name": f"{parts}:Own", "coefficient": 0.5, "longest": 7}})
    assert sections["objective, maximised"]["mine"] == "The squared length of an answer"
    assert sections["regularizer mine"]["longest"] == "7  Tokens."
    assert "gradient" not in sections["regularizer mine"]


# The facts behind "value" and "gradient": Schulman's k1, k2, k3 and Tang and Munos 2506.09477.
MERGED = "that of this divergence between the merged distributions"


@pytest.mark.parametrize(
    ("estimator", "value", "in_loss", "in_reward"),
    [
        ("sampled", "unbiased", "that of this divergence", "that of this divergence"),
        ("exact", "unbiased", "that of this divergence", "that of this divergence"),
        ("k1", "unbiased", "zero: it is noise, not a penalty", "that of this divergence"),
        ("k2", "biased", "that of this divergence", "of no divergence that ships with align"),
        ("k3", "unbiased", "that of forward_kl, not of this divergence", "of no divergence that ships with align"),
        ("abs", "biased", "2 × that of total_variation, not of this divergence", "of no divergence that ships with align"),
        ("straight_through", "unbiased", "that of this divergence", "of no divergence that ships with align"),
        ("top_k", "at most that of the divergence (tokens are merged), exact", MERGED, MERGED),
    ],
)
def test_published_estimators_are_found_out_by_enumeration(estimator, value, in_loss, in_reward):
    divergence = registry.resolve("divergence", "reverse_kl", "")()
    subject = registry.resolve("estimator", estimator, "")()
    assert estimator_bias.value_is(subject, divergence) == value
    assert estimator_bias.gradient_is(subject, divergence, "loss") == in_loss
    assert estimator_bias.gradient_is(subject, divergence, "reward") == in_reward


def test_an_estimator_of_ones_own_is_found_out_too():
    class Doubled(registry.contract("estimator")):
        def value(self, divergence, log_u):
            return 2 * divergence.khat(log_u)

        def grad_weight(self, divergence, log_u):
            return 2 * divergence.grad_weight(log_u)

    divergence = registry.resolve("divergence", "reverse_kl", "")()
    assert estimator_bias.value_is(Doubled(), divergence) == "biased"
    assert estimator_bias.gradient_is(Doubled(), divergence, "loss") == "2 × that of reverse_kl, not of this divergence"
