"""Bugs in episodes of several turns."""

from listed.mutant import Mutant

TURNS = "unit/environments/test_turns.py"
EARNED = "unit/environments/test_turn_rewards.py"
TOKENS = "unit/environments/test_turn_tokens.py"

MUTANTS = [
    Mutant("what a tool says is trained", "align/workers/playing_episode.py", "dtype=np.int32), trained=False)",
           "dtype=np.int32), trained=True, logp=np.zeros(len(marked.ids), np.float32), versions=((0, len(marked.ids)),))", TURNS),
    Mutant("one seed for later turns of all samples", "align/workers/turns.py", "{seed}/{sample}/{turn}", "{seed}/{turn}", TURNS),
    Mutant("a turn that does not fit begins", "align/workers/turns.py", "len(marked.ids) + self._turn_tokens", "len(marked.ids)", TURNS),
    Mutant("a turn that was cut is answered", "align/workers/turns.py", "if not episode.finished:", "if False:", TURNS),
    Mutant("a tool ends a turn", "align/experience/turn_tokens.py", "split_special_tokens=True", "split_special_tokens=False", TOKENS),
    Mutant("the reward of a turn at its first token", "align/experience/process_rewards.py", "paid[ends - 1] = rewards",
           "paid[np.r_[0, ends[:-1]]] = rewards", EARNED),
    Mutant("an episode whose environment failed is judged", "align/workers/reward_runner.py",
           "return None if episode.played is None else episode.played.failure", "return None", EARNED),
    Mutant("steps of the last turn counted from the first", "align/experience/process_rewards.py",
           "else len(ids) - len(episode.segments[-1].token_ids)", "else 0", EARNED),
]
