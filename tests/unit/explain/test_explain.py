"""What `explain` claims of a recipe, against arithmetic done by hand."""

import io

import pytest
from helpers.paths import ROOT
from rich.console import Console
from unit.explain.printed import PARTS, recipe_of, told

from align.config.recipes import build, load
from align.inspect.explain import objective, show


def test_the_objective_holds_the_coefficient_and_every_symbol(parts):
    rows = told(parts, algorithm={"name": f"{parts}:Told", "gain": 2.0})["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ 2 · ρ A − 0.03 · kl_t ]"
    assert rows["A"] == "reward − its mean"
    assert rows["kl"] == "KL(π‖ref) = E_π[log u]: f(u) = u log u; by sampled, credit local"
    assert rows["w_t"] == "1/Σ n" and rows["n"] == "the tokens of an answer"
    assert rows["reduction"].startswith("token: Mean over all response tokens of an update")
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


def test_an_algorithm_without_a_formula_sends_to_its_code(parts):
    rows = told(parts, algorithm=f"{parts}:Plain", regularizers={})["objective, maximised"]
    line = PARTS.splitlines().index("class Plain(Algorithm):")  # of its decorator
    assert rows[""] == f"J = E Σ_t w_t [ [its formula is not stated: see {parts}:{line}] ]"


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
    assert rows[""] == "J = E_r [ −(s_w − s_l − 1/(2β))² ] − E Σ_t w_t [ 0.5 · near_t ]"
    assert rows["preference"].startswith("ipo: (D - 1/(2 β))^2") and rows["β"] == "0.25"
    assert rows["s"] == "f'(u) − f'(1) at u = π/ref of the whole answer, of the chosen (w) and the rejected (l)"
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


def test_the_objective_of_a_link_has_its_weighting(parts):
    link = {"placement": "link", "coefficient": 0.1}
    weighted = preferences(parts, {"name": "dpo"}, regularizers={"kl": {**link, "weighting": "sampo"}})["objective, maximised"]
    assert weighted["log u"].startswith("of the link: Σ_t sampo_t log(π/ref) over the tokens of the answer")
    assert "log u" not in preferences(parts, {"name": "dpo"}, regularizers={"kl": link})["objective, maximised"]


def test_a_link_that_may_give_up_answers_is_warned_of(parts):
    regularizers = {"kl": {"divergence": "pearson", "placement": "link", "coefficient": 0.1}}
    assert "f'(0) is finite" in preferences(parts, {"name": "dpo"}, regularizers=regularizers)["regularizer kl"]["warning"]


def test_a_reward_model_has_no_policy(parts):
    sections = preferences(parts, {"name": "reward_model", "centre": 0.5}, regularizers={})
    rows = sections["objective, maximised"]
    assert rows[""] == "J = E_r [ log P(ranking | β s) − 0.5 s² ]" and rows["s²"] == "its mean over the answers of the ranking"
    assert rows.keys().isdisjoint({"w_t", "S", "E"}), "the loss of a ranking is no sum over tokens"
    loaded = sections["what is loaded"]
    assert "reward model" in loaded and loaded.keys().isdisjoint({"policy", "engine", "reference"})
    assert sections["batch"]["run"] == "10 steps: 10 updates, 160 rankings, each answer at most 24 tokens"


def test_a_critic_learns_the_penalty_in_the_reward(parts):
    regularizers = {"kl": {"placement": "reward", "credit": "summed", "coefficient": 0.05}}
    sections = told(parts, algorithm={"name": "ppo", "advantage": {"whiten": False}, "value_coefficient": 0.5}, regularizers=regularizers)
    rows = sections["objective, maximised"]
    assert rows[""] == "J = E Σ_t w_t [ min(ρ A, clip(ρ, 1−0.2, 1+0.2) A) − 0.5 L_V ]"
    less = "less 0.05 · kl_t, of π_old, taken from the reward of each token, which the critic learns"
    assert rows["A"] == f"GAE of the critic, γ = 1, λ = 0.95; {less}"
    gradient = sections["regularizer kl"]["gradient"]
    assert gradient.startswith("that of this divergence; at π_old, before the advantage discounts or rescales it")
    assert gradient.endswith("later updates of a batch weigh and clip it as they do any reward")
    once = told(parts, algorithm={"name": "ppo", "epochs": 1}, regularizers=regularizers)
    assert "later updates" not in once["regularizer kl"]["gradient"]
    assert sections["what is loaded"]["critic"].startswith("shared(")
    risky = told(parts, algorithm={"name": "ppo", "risk": 0.5}, regularizers={})["objective, maximised"]
    assert risky["L_V"].startswith("(e^z - z - 1)/alpha^2")


def test_a_nat_in_the_reward_costs_what_the_advantage_makes_of_it(parts):
    """GAE discounts by lambda and whitening rescales: beta is of the reward there, of A in the loss and without a critic."""
    paid = {"kl": {"placement": "reward", "credit": "summed", "coefficient": 0.05}}
    gae = told(parts, algorithm="ppo", regularizers=paid)["effective β"]["kl"]
    assert "costs β of the reward of the token" in gae and "gae(" in gae and "of the advantage" not in gae and "mean nats" not in gae
    plain = told(parts, algorithm={"name": "ppo", "advantage": "group_centred"}, regularizers=paid)["effective β"]["kl"]
    assert plain.endswith("one nat costs β of the advantage A of the token it is counted at, and of those before it")
    grpo = told(parts, regularizers=paid)["effective β"]["kl"]
    assert grpo.endswith("one nat costs β of the advantage A of the token it is counted at")
    nothing = told(parts, regularizers={"kl": {"coefficient": 0}})["effective β"]
    assert nothing == {"kl": "β = 0: measured, not trained"}


def test_every_symbol_has_one_row(parts):
    paid = {"kl": {"placement": "reward", "credit": "summed", "coefficient": 0.05}}
    labels = [row.label for row in objective(build(recipe_of(parts, algorithm="ppo", regularizers=paid)))]
    assert [s for s in ("A", "E", "u", "w_t", "ρ") if labels.count(s) != 1] == []
    dpo = preferences(parts, {"name": "dpo"}, regularizers={"kl": {"placement": "link", "coefficient": 0.1}})
    rows = dpo["objective, maximised"]
    assert rows["σ"].startswith("the logistic function") and rows["u"].startswith("π/ref") and "E_r" in rows
    assert "π_ref" not in str(dpo)


def test_an_engine_beside_rankings_is_for_evaluation(parts):
    link = {"kl": {"placement": "link", "coefficient": 0.1}}
    task = {"name": "preferences", "path": "pairs.jsonl", "held_out": "countdown"}
    sections = preferences(parts, {"name": "dpo"}, regularizers=link, task=task)
    assert sections["what is loaded"]["engine"].split("; ")[-1].startswith("for evaluation alone")


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
    show(load(ROOT / "recipes" / f"{name}.yaml"), console)
    assert "objective, maximised" in console.file.getvalue() and "other parts" in console.file.getvalue()


def test_memory_is_the_product_of_tokens_and_bytes(parts):
    batch = {"prompts": 16, "samples": 4, "micro_tokens": 1000}
    row = told(parts, batch=batch)["memory, estimated"]["learner"].splitlines()[1]
    assert row.startswith("and a forward pass of 1,000 input tokens (batch.micro_tokens): 1,000 × ") and "together at most" in row
    elements = batch | {"head_elements": 1500}
    fewer = told(parts, batch=elements)["memory, estimated"]["learner"].splitlines()[1]
    assert "the logits of 1,000 at once" in row and "the logits of 75 at once" in fewer, "1,500 / 20 words"


def test_where_the_model_is_not_here_the_way_out_is_told(parts):
    told_of = told(parts, model={"path": "nowhere/model"})["memory, estimated"]
    (told_of,) = told_of.values()
    assert "a folder with its config.json alone" in told_of.lower() and "model.config=" in told_of
