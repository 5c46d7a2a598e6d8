"""What `explain` claims of a recipe, against arithmetic done by hand and facts proven in the literature."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from align.config import registry
from align.config.docstrings import format_part, keys, sentence, summary
from align.config.recipes import build, load
from align.inspect.explain import show
from align.oracle import estimator_bias

PARTS = """
from align.algorithms import Algorithm
from align.regularizers import Regularizer
from align.config.nodes import part
from dataclasses import dataclass
from typing import Any

class Silent:
    '''Answers nothing.'''

    def start(self, *args): ...

@dataclass(frozen=True)
class Plain(Algorithm):
    '''Policy gradient without a baseline. More words.'''

    reduction: Any = part("reduction", "token")
    gain: float = 1.0

    def loss(self, ctx, advantages): ...

class Told(Plain):
    '''A policy gradient that says what it maximises.'''

    def formula(self):
        return f"{self.gain:g} · ρ A"

    def symbols(self):
        return {"A": "reward − its mean"}

@dataclass(frozen=True)
class Own(Regularizer):
    '''The squared length of an answer. Not a divergence.'''

    coefficient: Any = part("coefficient")
    longest: int = 9
    '''Tokens.'''

    def penalty(self, ctx, name): ...
"""


@pytest.fixture
def parts(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(PARTS)
    return str(file)


def told(parts: str, **changes) -> dict[str, dict[str, str]]:
    """Section -> label -> text of what is printed; rows without a label are joined under the one above."""
    node = {
        "steps": 10,
        "task": "countdown",
        "reward": "countdown_exact",
        "algorithm": {"name": "grpo", "reduction": "constant"},
        "engine": f"{parts}:Silent",
        "model": {"config": {"model_type": "qwen2"}},
        "batch": {"prompts": 16, "samples": 4},
        "sampling": {"max_tokens": 24},
        "workers": {"rollout": 2},
        "regularizers": {"kl": {"coefficient": 0.03}},
    } | changes
    console = Console(file=io.StringIO(), width=400)
    show(build(node), console)
    sections, label = {}, ""
    for line in console.file.getvalue().splitlines():
        if line.strip() and not line.startswith(" "):
            section = sections.setdefault(line.strip(), {})
        elif line.strip():
            head, _, text = line[2:].rstrip().partition("  ")
            label = head.strip() or label
            section[label] = f"{section[label]}\n{text.strip()}" if label in section else text.strip()
    return sections


def test_the_objective_holds_the_coefficient_and_every_symbol(parts):
    rows = told(parts, algorithm={"name": f"{parts}:Told", "gain": 2.0})["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ 2 · ρ A − 0.03 · kl_t ]"
    assert rows["A"] == "reward − its mean"
    assert rows["kl"] == "KL(π‖ref) = E_π[log u]: f(u) = u log u; by sampled, credit local"
    assert rows["w_t"] == "1/Σ n" and rows["n"] == "the tokens of an answer"
    assert rows["reduction"].startswith("token: Mean over all response tokens of the batch")
    assert "align/reductions/token.py:" in rows["reduction"]
    assert rows["algorithm"].startswith(f"{parts}:Told(reduction=token, gain=2.0): A policy gradient that says what it maximises.")
    assert rows["algorithm"].endswith(f"{parts}:{PARTS.splitlines().index('class Told(Plain):') + 1}")


def test_a_coefficient_of_0_is_no_term(parts):
    regularizers = {
        "seen": {"coefficient": 0},
        "paid": {"coefficient": 0.0, "placement": "reward", "credit": "summed"},
        "kl": {"coefficient": 0.03, "estimator": "exact"},
    }
    sections = told(parts, algorithm=f"{parts}:Told", regularizers=regularizers)
    rows = sections["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ 1 · ρ A − 0.03 · kl_t ]"
    assert rows["A"] == "reward − its mean"
    assert rows["seen"].endswith("by sampled, credit local; measured, not trained")
    assert rows["paid"].endswith("credit summed; measured, not trained") and "measured, not" not in rows["kl"]
    assert sections["effective β"]["seen"] == sections["effective β"]["paid"] == "β = 0: measured, not trained"
    assert sections["effective β"]["kl"].startswith("β = 0.03 at step 0")
    later = {"seen": {"coefficient": {"name": "warmup", "to": 0.1, "steps": 4}}}
    assert told(parts, algorithm=f"{parts}:Told", regularizers=later)["objective, maximised"][""].endswith("− β_seen · seen_t ]")


def test_an_algorithm_that_says_nothing_is_told_by_its_docstring(parts):
    rows = told(parts, algorithm=f"{parts}:Plain", regularizers={})["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ [Policy gradient without a baseline. More words.] ]"


def test_what_is_placed_in_the_reward_leaves_the_loss(parts):
    regularizers = {
        "far": {"placement": "reward", "credit": "summed", "weighting": "difficulty", "coefficient": {"name": "adaptive", "target": 2}},
        "near": {"divergence": {"name": "tsallis", "q": 0.5}, "coefficient": 1e-4},
    }
    sections = told(parts, algorithm=f"{parts}:Plain", regularizers=regularizers)
    rows = sections["objective, maximised"]
    assert rows[""].endswith("] − 0.0001 · near_t ]")
    assert rows["A"].startswith("less β_far · difficulty · far_t")
    assert rows["β_far"] == "adaptive(target=2.0, initial=0.2, horizon=10000.0)"
    assert "β_near" not in rows
    far = sections["regularizer far"]
    assert far["placement"].startswith("reward; credit summed: Each token also answers for the divergence of what follows  ")
    assert far["gradient"] == "that of this divergence; weighed by ρ = π/π_old of the answer so far"
    assert far["weighting"].startswith("difficulty(sharpness=") and "align/weightings/difficulty.py:" in far["weighting"]
    assert sections["effective β"]["far"].startswith("β = 0.2 at step 0, changing")


@pytest.mark.parametrize(
    ("reduction", "full", "half"),
    [
        # constant: beta/24 a nat of an answer, whatever its length; 12 of 24 tokens make half of beta a nat of a token.
        ("constant", "0.03 × the mean nats of a token = 0.00125 ×", "0.015 × the mean nats of a token = 0.00125 ×"),
        # token and sequence_mean: a mean over tokens, so beta a nat of a token, and beta/n a nat of an answer of n.
        ("token", "0.03 × the mean nats of a token = 0.00125 ×", "0.03 × the mean nats of a token = 0.0025 ×"),
        ("sequence_mean", "0.03 × the mean nats of a token = 0.00125 ×", "0.03 × the mean nats of a token = 0.0025 ×"),
    ],
)
def test_effective_beta(parts, reduction, full, half):
    text = told(parts, algorithm={"name": "grpo", "reduction": reduction})["effective β"]["kl"].splitlines()
    assert text[0] == "β = 0.03 at step 0"
    assert text[1] == f"answers of 24 tokens: {full} the mean nats of an answer"
    assert text[2] == f"answers of 12 tokens: {half} the mean nats of an answer"


@pytest.mark.parametrize(
    ("max_batch", "dealt"),
    [
        (32, "units of at most 8 prompts × 4 = 32 rollouts, 2 of them, dealt to 2"),
        (
            512,
            "units of at most 16 prompts × 4 = 64 rollouts, 1 of them, dealt to 2; a step's 64 answers are generated in 1 unit, so 1 of 2 "
            "rollout workers have nothing to do: lower workers.rollout, or the rows of a unit (engine.max_batch)",
        ),
    ],
)
def test_units_are_counted(parts, max_batch, dealt):
    assert told(parts, engine={"name": "transformers", "max_batch": max_batch})["batch"]["worker"] == dealt


def test_batch_arithmetic(parts):
    rows = told(parts, algorithm={"name": "grpo", "epochs": 3, "minibatches": 2})["batch"]
    assert rows == {
        "step": "16 prompts × 4 samples = 64 rollouts",
        "worker": "at most 8 prompts × 4 = 32 rollouts, on each of 2",
        "updates": "3 epochs × 2 minibatches = 6 a step, 32 sequences each; the later updates of a batch are off-policy",
        "run": "10 steps: 60 updates, 640 rollouts, at most 15,360 tokens",
    }


def test_demonstrations_have_no_rollouts(parts):
    sections = told(
        parts,
        algorithm="sft",
        reward=None,
        task={"name": "countdown", "demonstrations": True},
        batch={"prompts": 16},
        regularizers={},
        workers={"backend": "local"},
    )
    assert sections["batch"] == {
        "step": "16 demonstrations",
        "updates": "1 epochs × 1 minibatches = 1 a step, 16 sequences each; one update a batch",
        "run": "10 steps: 10 updates, 160 demonstrations, at most 3,840 tokens",
    }
    assert sections["what is loaded"]["processes"] == "this one process"
    assert sections["what is loaded"]["reference"].startswith("none")
    assert "effective β" not in sections


def preferences(parts: str, algorithm: dict, **changes) -> dict[str, dict[str, str]]:
    return told(
        parts,
        **{
            "algorithm": algorithm,
            "reward": None,
            "task": {"name": "preferences", "path": "pairs.jsonl"},
            "model": {"path": "nowhere"},
            "batch": {"prompts": 16},
            "workers": {"backend": "local"},
        }
        | changes,
    )


def test_a_link_is_told_as_what_it_makes_optimal(parts):
    regularizers = {
        "js": {"divergence": "jensen_shannon", "placement": "link", "coefficient": 0.25, "reference": "precomputed"},
        "near": {"coefficient": 0.5, "estimator": "exact"},
    }
    sections = preferences(parts, {"name": "dpo", "preference": "ipo", "minibatches": 2}, regularizers=regularizers)
    rows = sections["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ −(s_w − s_l − 1/(2β))² − 0.5 · near_t ]"
    assert rows["preference"].startswith("ipo: (D - 1/(2 β))^2") and rows["β"] == "0.25"
    assert rows["s"] == "f'(u) − f'(1) at u = π/π_ref of the whole answer, of the chosen (w) and the rejected (l)"
    assert rows["w_t"] == "1/S" and rows["reduction"].startswith("sequence_sum: ") and "A" not in rows
    link = sections["regularizer js"]
    assert link["placement"].startswith("link: the implicit reward of an answer is β (f'(u) − f'(1))")
    assert link["optimum"].startswith("u = f'⁻¹((R − λ)/β)") and "40 nats of an answer" in link["clamp"]
    assert "gradient" not in link and "warning" not in link
    assert sections["effective β"].keys() == {"near"}, "a link's beta is its own"
    assert sections["batch"] == {
        "step": "16 rankings",
        "updates": "1 epochs × 2 minibatches = 2 a step, 8 rankings each; the later updates of a batch are off-policy",
        "run": "10 steps: 20 updates, 160 rankings, each answer at most 24 tokens",
    }
    assert sections["what is loaded"]["reference"].splitlines()[0].startswith("precomputed for js: the answers' log-probs")
    per_token = preferences(parts, {"name": "dpo", "per_token": True}, regularizers={"kl": {"placement": "link", "coefficient": 0.1}})
    assert "of the whole answer over its length" in per_token["objective, maximised"]["s"]


def test_a_link_that_may_give_up_answers_is_warned_of(parts):
    regularizers = {"kl": {"divergence": "pearson", "placement": "link", "coefficient": 0.1}}
    assert "f'(0) is finite" in preferences(parts, {"name": "dpo"}, regularizers=regularizers)["regularizer kl"]["warning"]


def test_a_reward_model_has_no_policy(parts):
    sections = preferences(parts, {"name": "reward_model", "centre": 0.5}, regularizers={})
    assert sections["objective, maximised"][""] == "J = E Σ_t w_t [ log P(ranking | β s) − 0.5 s² ]"
    loaded = sections["what is loaded"]
    assert "scorer" in loaded and loaded.keys().isdisjoint({"policy", "engine", "reference"})
    assert sections["batch"]["run"] == "10 steps: 10 updates, 160 rankings, each answer at most 24 tokens"


def test_a_critic_learns_the_penalty_in_the_reward(parts):
    regularizers = {"kl": {"placement": "reward", "credit": "summed", "coefficient": 0.05}}
    sections = told(parts, algorithm={"name": "ppo", "advantage": {"whiten": False}, "value_coefficient": 0.5}, regularizers=regularizers)
    rows = sections["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ min(ρ A, clip(ρ, 1−0.2, 1+0.2) A) − 0.5 L_V ]"
    assert rows["A"].splitlines() == [
        "less 0.05 · kl_t, of π_old: taken from the reward of each token, which the critic learns",
        "GAE of the critic, γ = 1, λ = 0.95",
    ]
    gradient = sections["regularizer kl"]["gradient"]
    assert gradient.endswith("taken once a batch, at π_old; later updates weigh it by the surrogate's own ratio")
    assert sections["what is loaded"]["critic"].startswith("shared(")
    risky = told(parts, algorithm={"name": "ppo", "risk": 0.5}, regularizers={})["objective, maximised"]
    assert risky["L_V"].startswith("(e^z - z - 1)/alpha^2")


def test_relatives_of_grpo_are_told_by_their_functions(parts):
    keys = {"name": "grpo", "advantage": "leave_one_out", "surrogate": "reinforce", "reduction": "sequence_sum"}
    rows = told(parts, algorithm=keys, regularizers={})["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ ρ A ]"
    assert rows["A"] == "r − mean of the others of its group" and rows["ρ"] == "π/π_old of the token"
    assert rows["surrogate"].startswith("reinforce: -ρ A, no bound") and "align/surrogates/reinforce.py:" in rows["surrogate"]
    assert rows["advantage"].startswith("leave_one_out: ") and "align/advantages/leave_one_out.py:" in rows["advantage"]


@pytest.mark.parametrize("name", ["countdown_dpo", "countdown_ppo", "countdown_reward_model", "countdown_ppo_learned", "countdown_rloo"])
def test_the_shipped_recipes_are_told(name):
    console = Console(file=io.StringIO(), width=200)
    show(load(Path(__file__).parents[2] / "recipes" / f"{name}.yaml"), console)
    assert "objective, maximised" in console.file.getvalue() and "other parts" in console.file.getvalue()


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
        ("k1", "unbiased", "zero: it is noise, no penalty", "that of this divergence"),
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
            return 2 * divergence.value(log_u)

        def coefficient(self, divergence, log_u):
            return 2 * divergence.coefficient(log_u)

    divergence = registry.resolve("divergence", "reverse_kl", "")()
    assert estimator_bias.value_is(Doubled(), divergence) == "biased"
    assert estimator_bias.gradient_is(Doubled(), divergence, "loss") == "2 × that of reverse_kl, not of this divergence"


# What parts say of themselves


def test_docstrings_in_two_lengths():
    class Part:
        """One line (Shao et al. 2402.03300) of 1.5 lines
        that goes on. A second sentence.

        Another paragraph.
        """

    assert summary(Part) == "One line (Shao et al. 2402.03300) of 1.5 lines that goes on. A second sentence."
    assert sentence(Part) == "One line (Shao et al. 2402.03300) of 1.5 lines that goes on"


def test_a_part_without_a_docstring_says_nothing(tmp_path):
    file = tmp_path / "mute.py"
    file.write_text("class Mute:\n    q: float = 1.0\n    def f(self, log_u): ...\n")
    assert summary(registry.resolve("divergence", f"{file}:Mute", "")) == ""


def test_keys_have_their_type_default_and_meaning():
    target, initial, horizon = keys(registry.resolve("coefficient", "adaptive", ""))
    assert (target.name, target.type, target.required) == ("target", "float", True)
    assert target.doc.startswith("Nats per response")
    assert (initial.default, initial.required, initial.doc) == (0.2, False, "")
    assert horizon.doc == "Rollouts over which beta can change by about 20 %."
    composed = {key.name: key for key in keys(registry.resolve("regularizer", "composed", ""))}
    assert (composed["divergence"].type, composed["divergence"].default) == ("divergence", "reverse_kl")
    assert composed["coefficient"].required


def test_written_is_what_a_recipe_would_say():
    assert format_part(registry.resolve("divergence", "tsallis", "")(q=0.5)) == "Tsallis(q=0.5)"
    built = build({"steps": 1, "task": "countdown", "algorithm": "sft", "engine": "transformers", "model": {"path": "x"}})
    assert format_part(built.algorithm) == "sft(likelihood=nll, likelihood_weight=1.0, reduction=token)"
