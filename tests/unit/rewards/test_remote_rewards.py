"""Rewards of an endpoint, and what each way of failing does."""

import json
import time

import numpy as np
import pytest
from helpers.endpoint import SLOW, Served

from align.config import recipes
from align.config.nodes import build_part, resolved
from align.config.schema import RewardLimits
from align.errors import RecipeError, RunStopped, UserError
from align.types import Episode, Group, Prompt, Rewards
from align.workers.reward_runner import run_rewards

LIMITS = RewardLimits(seconds=60.0)
RESPONSES = ("a", "bb", "ccc", "dddd")


@pytest.fixture(scope="module")
def server() -> Served:
    return Served()


@pytest.fixture(autouse=True)
def fresh(server):
    server.forget()


def reward(server: Served, name: str, path: str = "", **keys):
    keys = {"wait": 0.001, **({"model": "m"} if name == "judge" else {}), **keys}
    return build_part("reward", {"name": name, "url": f"{server.url}/{path}", **keys}, "reward")


def run(part, *responses: str, limits: RewardLimits = LIMITS) -> Rewards:
    prompt = Prompt(id="p", text="6*7=", token_ids=(1,), fields={"level": 3})
    episodes = tuple(Episode.single_turn(np.ones(1, np.int32), text) for text in responses or RESPONSES)
    return run_rewards(part.start(), limits, [Group(prompt=prompt, episodes=episodes)])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_rewards_come_in_order_from_any_number_of_requests(server, batch):
    rewards = run(reward(server, "http", batch=batch))
    assert rewards.values.tolist() == [1, 2, 3, 4] and rewards.parts["id"].tolist() == [1] * 4 and not rewards.failed
    assert len(server.bodies) == -(-4 // batch)
    sent = [sample for body in server.bodies for sample in body["samples"]]
    assert {"id": "p", "prompt": "6*7=", "response": "a", "fields": {"level": 3}} in sent


def test_a_request_is_sent_again_until_it_succeeds(server):
    rewards = run(reward(server, "http", "flaky", batch=2, attempts=2))
    assert rewards.values.tolist() == [1, 2, 3, 4] and len(server.bodies) == 4


def test_an_endpoint_that_stays_broken_stops_the_run_with_one_line(server):
    with pytest.raises(RunStopped, match=r"/broken failed after 3 attempts \(status 503: 'sorry'\); .*on_error=fail") as error:
        run(reward(server, "http", "broken", attempts=3))
    assert "\n" not in str(error.value) and len(server.bodies) == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("refusing", r"failed after 1 attempt \(status 400"),
        ("nonsense", r"must be {\"rewards\": \[...\]} with 4 entries"),
        ("text", "which is no JSON"),
        ("deep", "which is no JSON"),
        ("moved", r"/moved redirects \(status 302\) to '/elsewhere': name that address as url"),
        ("endless", "answered more than 16,777,216 bytes"),
    ],
)
def test_an_answer_that_will_not_improve_is_not_asked_for_again(server, path, message):
    with pytest.raises(RunStopped, match=message):
        run(reward(server, "http", path))
    assert len(server.bodies) == 1


def test_failures_count_as_failed_where_the_recipe_says_so_and_never_as_0(server):
    rewards = run(reward(server, "http", "broken", attempts=1, on_error="fail"))
    assert rewards.failed == 4 and np.isnan(rewards.values).all() and "status 503" in rewards.first_failure


def test_where_nobody_listens(server):
    part = build_part("reward", {"name": "http", "url": "http://127.0.0.1:9/", "attempts": 2, "wait": 0.001}, "reward")
    with pytest.raises(RunStopped, match=r"127\.0\.0\.1:9/ failed after 2 attempts"):
        run(part)


def test_a_slow_endpoint_is_left_at_its_timeout(server):
    rewards = run(reward(server, "http", "slow", timeout=SLOW / 3, attempts=1, on_error="fail"))
    assert rewards.failed == 4 and "Timeout" in rewards.first_failure


def test_a_reply_that_comes_in_drops_is_left_at_the_timeout_too(server):
    began = time.monotonic()
    with pytest.raises(RunStopped, match=r"/dripping failed after 1 attempt \(Timeout: the reply took longer than 0\.1 s\)"):
        run(reward(server, "http", "dripping", timeout=0.1, attempts=1))
    assert time.monotonic() - began < 2


def test_a_row_that_is_no_json_is_named_and_not_sent(server):
    prompt = Prompt(id="p", text="", token_ids=(1,), fields={"level": float("nan")})
    group = Group(prompt=prompt, episodes=(Episode.single_turn(np.ones(1, np.int32), "a"),))
    with pytest.raises(RunStopped, match="a field of the row has a value that JSON does not have"):
        run_rewards(reward(server, "http").start(), LIMITS, [group])
    assert not server.bodies


def test_the_time_limit_of_rewards_interrupts(server):
    began = time.monotonic()
    rewards = run(reward(server, "http", "broken", attempts=50, wait=9.0), limits=RewardLimits(seconds=0.05))
    assert rewards.failed == 4 and "took longer" in rewards.first_failure and time.monotonic() - began < 3


def test_a_judge_rates(server):
    (rated,) = run(reward(server, "judge", template="{level}: {response}", highest=20.0), "abc").parts["rating"]
    assert rated == len("3: abc") % 9
    assert run(reward(server, "judge", template="{response}", lowest=-2.0, highest=8.0), "abc").values.tolist() == [0.5]
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["messages"]) == ("m", 0.0, [{"role": "user", "content": "3: abc"}])


def test_a_rating_that_is_missing_or_outside_fails_and_is_no_0(server):
    rewards = run(reward(server, "judge"), "UNRATED", "TOO GOOD", "fine")
    assert rewards.failed == 2 and np.isnan(rewards.values).tolist() == [True, True, False]
    assert "no rating (pattern): 'I rate nothing.'" in rewards.first_failure
    assert "rating 100 is outside of 0 to 10" in run(reward(server, "judge"), "TOO GOOD").first_failure


def test_a_judge_that_answers_nonsense_stops_the_run(server):
    with pytest.raises(RunStopped, match="no chat completion"):
        run(reward(server, "judge", "nonsense"))


def test_braces_in_an_answer_are_text(server):
    run(reward(server, "judge", template="{{}} {response}"), "{prompt} {0}")
    assert server.bodies[0]["messages"][-1]["content"] == "{} {prompt} {0}"


def test_the_key_is_read_from_the_environment_and_kept_out_of_the_recipe(server, monkeypatch):
    part = reward(server, "judge", key_variable="ALIGN_TEST_KEY")
    with pytest.raises(UserError, match="ALIGN_TEST_KEY is not set"):
        part.start()
    monkeypatch.setenv("ALIGN_TEST_KEY", "s3cret")
    run(part)
    assert set(server.keys) == {"Bearer s3cret"}
    assert "s3cret" not in json.dumps(resolved(part)) + repr(part) + repr(part.start()._endpoint)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "http", "url": "localhost:80"}, "url must begin with http"),
        ({"name": "http", "url": "http://me:pass@host/"}, "url must not hold"),
        ({"name": "http", "url": "http://a/", "on_error": "ignore"}, "on_error must be stop or fail"),
        ({"name": "judge", "url": "http://a/"}, "model must be given"),
        ({"name": "judge", "url": "http://a/", "model": "m", "pattern": "Rating"}, "must have one group"),
        ({"name": "judge", "url": "http://a/", "model": "m", "pattern": "("}, "no regular expression"),
        ({"name": "judge", "url": "http://a/", "model": "m", "template": "{prompt}"}, "must contain {response}"),
        ({"name": "judge", "url": "http://a/", "model": "m", "template": "{response} {0}"}, "write names of fields"),
        ({"name": "judge", "url": "http://a/", "model": "m", "template": "{response"}, "reward: "),
        ({"name": "judge", "url": "http://a/", "model": "m", "template": "{response:d}"}, "Unknown format code 'd'"),
        ({"name": "judge", "url": "http://a/", "model": "m", "lowest": 3.0, "highest": 3.0}, "must be below highest"),
    ],
    ids=str,
)
def test_keys_that_mean_nothing_are_refused(node, message):
    with pytest.raises(RecipeError, match=message):
        build_part("reward", node, "reward")


def test_a_timeout_above_the_limit_of_rewards_is_refused():
    node = {"steps": 1, "task": "countdown", "algorithm": "grpo", "reward": {"name": "http", "url": "http://a/"}, "model": {"path": "x"}}
    with pytest.raises(RecipeError, match=r"set reward_limits\.seconds=60"):
        recipes.build(node)


def test_the_fields_of_a_template_are_required_of_rows(server):
    assert reward(server, "judge", template="{level} {prompt} {response}").required_fields == ("level",)
