"""Restarts after old attempts, and self-judged attempts."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.curate import restarts
from sitrain.curate.restarts import NEW, RIGHT, WRONG
from sitrain.methods import satori, ssr_zero
from sitrain.models.decoder import Decoder
from sitrain.rollout.contexts import append, append_reply, begin
from sitrain.rollout.play import columns_of
from sitrain.tasks import maze
from sitrain.train import init_state
from sitrain.types import GIVEN, PAD, Verdict

TASK = maze.make(doors=2, rooms=2)
MODEL = Decoder(
  vocabulary=TASK.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
  head_size=8, mlp_size=8,
)
KEY = jax.random.key(0)
PROBLEMS = jax.jit(lambda key: TASK.problems(key, 4))(KEY)
# Two attempts of each problem; the third are both wrong, and of the fourth the
# verifier failed on one.
ATTEMPTS = jnp.array([
  [1, 2, maze.EXIT], [3, 4, maze.END], [5, maze.END, PAD], [6, 7, maze.EXIT],
  [1, 2, maze.END], [3, 4, maze.END], [6, 7, 8], [5, 6, maze.EXIT],
])
# Compiled as one: op by op, each of hundreds would be.
rows_of = jax.jit(
  lambda problems, attempts: append(begin(problems, 2), attempts, 1)
)
ROWS = rows_of(PROBLEMS, ATTEMPTS)
COLUMNS = sum(columns_of(TASK, (3, 0)))
VERDICT = Verdict(
  jnp.array([[1, 0, 0, 1, 0, 0, jnp.nan, 1.0]]).T,
  jnp.array([[1, 1, 1, 1, 1, 1, 0, 1.0]]).T,
)
SOLUTIONS = [RIGHT, RIGHT, NEW, NEW, WRONG, WRONG, NEW, NEW]


@functools.cache
def restarts_of_rows(dropped=0, task=TASK):
  return jax.jit(functools.partial(
    restarts.after_attempts, task, dropped=dropped, columns=COLUMNS
  ))(PROBLEMS, ROWS, VERDICT)


def filled():
  """As many states as there are restarts."""
  return restarts.store(restarts.empty(TASK, 4, COLUMNS), restarts_of_rows())


def text(tokens):
  return [int(t) for t in tokens if t != PAD]


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_a_restart_is_a_prompt_an_attempt_and_the_instruction(dropped):
  found = restarts_of_rows(dropped)
  assert found.prompt.shape == (8, COLUMNS)
  assert found.solution[:, 0].tolist() == SOLUTIONS
  for state, row in ((0, 0), (1, 3), (4, 1), (5, 2)):
    attempt = text(ATTEMPTS[row])
    attempt = attempt[: len(attempt) - dropped]
    want = text(PROBLEMS.prompt[row // 2]) + attempt + [maze.AGAIN]
    assert text(found.prompt[state]) == want
    # Prompts are padded on the left.
    assert np.all(found.prompt[state, : COLUMNS - len(want)] == PAD)
    np.testing.assert_array_equal(
      found.answer[state], PROBLEMS.answer[row // 2]
    )


def test_a_restart_is_the_context_of_the_second_turn():
  """So RL of one turn from restarts trains what is evaluated as turn 2."""
  reply = TASK.reply(
    PROBLEMS.answer[ROWS.problem], ROWS, jnp.ones(8, jnp.int32)
  )
  rows, found = append_reply(ROWS, reply), begin(restarts_of_rows(), 1)
  for state, row in ((0, 0), (1, 3), (4, 1), (5, 2)):
    assert text(found.tokens[state]) == text(rows.tokens[row])
    assert set(text(found.turn[state])) == {GIVEN}


def test_an_episode_that_its_reply_ends_is_no_restart():
  def reply(answer, episodes, turn):
    found = TASK.reply(answer, episodes, turn)
    return found._replace(done=jnp.arange(8) == 4)

  found = restarts_of_rows(task=TASK._replace(reply=reply))
  want = [*SOLUTIONS[:4], NEW, *SOLUTIONS[5:]]
  assert found.solution[:, 0].tolist() == want


def test_states_fill_up_and_stay():
  states = restarts.empty(TASK, 6, COLUMNS)
  assert not restarts.full(states)
  once = restarts.store(states, restarts_of_rows())
  assert once.solution[:, 0].tolist() == [RIGHT] * 2 + [WRONG] * 2 + [NEW] * 2
  other = restarts_of_rows()._replace(prompt=restarts_of_rows().prompt + 1)
  twice = restarts.store(once, other)
  assert restarts.full(twice)
  for x, y in zip(twice, once, strict=True):
    np.testing.assert_array_equal(x[:4], y[:4])
  np.testing.assert_array_equal(twice.prompt[4:], other.prompt[:2])
  again = restarts.store(twice, other)
  jax.tree.map(np.testing.assert_array_equal, again, twice)


def test_restarts_replace_problems():
  states = filled()
  new = jax.jit(lambda key: TASK.problems(key, 40))(jax.random.key(1))
  found = jax.jit(restarts.mix, static_argnums=3)(KEY, new, states, 30)
  assert found.prompt.shape == (40, COLUMNS)
  assert found.solution[30:].tolist() == [[NEW]] * 10
  for i in range(30, 40):
    assert text(found.prompt[i]) == text(new.prompt[i])
  known = [text(prompt) for prompt in states.prompt]
  drawn = [known.index(text(found.prompt[i])) for i in range(30)]
  assert set(drawn) == {0, 1, 2, 3}
  for i, b in enumerate(drawn):
    np.testing.assert_array_equal(found.answer[i], states.answer[b])
    np.testing.assert_array_equal(found.solution[i], states.solution[b])


def test_problems_are_new_until_all_states_exist():
  states = restarts.store(restarts.empty(TASK, 5, COLUMNS), restarts_of_rows())
  found = restarts.mix(KEY, PROBLEMS, states, 3)
  for b in range(4):
    assert text(found.prompt[b]) == text(PROBLEMS.prompt[b])
  np.testing.assert_array_equal(found.answer, PROBLEMS.answer)
  assert found.solution.tolist() == [[NEW]] * 4


def test_transitions_by_hand():
  begun = jnp.array([[NEW], [NEW], [WRONG], [WRONG], [RIGHT], [RIGHT]])
  reward = jnp.array([[1.0], [0], [1], [0], [1], [0]])
  found = restarts.transition(begun, reward)
  assert found.tolist() == [[0], [0], [1], [0], [0], [-1]]
  partly = restarts.transition(begun, jnp.full_like(reward, 0.9))
  assert partly.tolist() == [[0], [0], [0], [0], [-1], [-1]]


@pytest.mark.parametrize("options", [
  {"restarts": -1}, {"restarts": 9}, {"dropped": -1}, {"capacity": 0},
  {"bonus": float("nan")},
])
def test_options_that_begin_nothing_again_are_refused(options):
  (name, value), = options.items()
  with pytest.raises(ValueError, match=f"{name}={value}"):
    satori_of(**options)


def state_of(memory=()):
  params = {"policy": fakes.parameters(MODEL, 0)}
  held = {"reference": fakes.parameters(MODEL, 1)}
  return init_state(params, optax.identity(), held=held, memory=memory)


def satori_of(**options):
  return satori.make(
    {"policy": MODEL}, TASK, (), turns=(3,), problems=4, samples=2,
    **{"restarts": 2} | options,
  )


def test_rounds_are_stored_until_all_is_full():
  method = satori_of(dropped=1, capacity=4)
  state = state_of(method.memory(KEY))
  refresh = jax.jit(method.refresh)
  first = refresh(state, PROBLEMS, ROWS, VERDICT)
  found = [text(x) for x in first.memory.prompt]
  kept = restarts_of_rows(1).prompt[jnp.array([0, 1, 4, 5])]
  assert found == [text(x) for x in kept]
  other = VERDICT._replace(reward=1 - VERDICT.reward)
  again = refresh(first, PROBLEMS, ROWS, other)
  jax.tree.map(np.testing.assert_array_equal, again.memory, first.memory)


def test_the_bonus_reaches_the_advantage():
  """Of two samples after a wrong attempt the right one gets 1 + bonus."""
  problems = restarts.mix(KEY, PROBLEMS, filled(), 2)
  problems = problems._replace(
    solution=jnp.array([[WRONG], [RIGHT], [NEW], [NEW]])
  )
  rows = rows_of(problems, jnp.tile(ATTEMPTS[:1], (8, 1)))
  verdict = Verdict(jnp.array([[1.0, 0] * 4]).T, jnp.ones((8, 1)))
  method = satori_of(bonus=0.25)
  batch, _ = jax.jit(method.curate)(KEY, state_of(), problems, rows, verdict)
  value = jnp.max(jnp.where(batch.mask > 0, batch.targets.advantage, -9), 1)
  # Leave-one-out of two: the difference to the other.
  np.testing.assert_allclose(
    value, [1.25, -1.25, 1.25, -1.25, 1, -1, 1, -1], rtol=1e-6
  )


def test_long_prompts_are_read_once_for_all_samples():
  """Sharing them changes nothing, though they are wider than the task's."""
  problems = restarts.mix(KEY, PROBLEMS, filled(), 4)
  rows = rows_of(problems, ATTEMPTS)
  verdict = Verdict(jnp.array([[1.0, 0] * 4]).T, jnp.ones((8, 1)))
  state, found = state_of(), []
  for shared in (False, True):
    method = satori_of(share_prompts=shared)
    batch, _ = jax.jit(method.curate)(KEY, state, problems, rows, verdict)
    assert batch.tokens.ndim == 2 + shared
    found.append(jax.jit(method.loss)(state.params, state, batch)[0])
  for x, y in zip(*map(jax.tree.leaves, found), strict=True):
    assert np.isfinite(x)
    np.testing.assert_allclose(x, y, rtol=1e-4)


def test_votes_as_rewards_by_hand():
  """The share of second looks that come to the same answer as the attempt."""
  method = ssr_zero.make(
    {"policy": MODEL}, TASK, (), turns=(3, 3), problems=2, samples=2, votes=2
  )
  problems = jax.tree.map(lambda x: x[:2], PROBLEMS)
  attempts = jnp.array([
    [1, 2, maze.EXIT], [3, 4, maze.END], [5, maze.END, PAD], [6, 7, 8],
  ])
  solve = rows_of(problems, attempts)
  twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), solve)
  reply = TASK.reply(
    problems.answer[twice.problem], twice, jnp.ones(8, jnp.int32)
  )
  second = jnp.array([
    [1, 2, maze.EXIT], [1, 2, maze.END],  # one of two agrees
    [3, 4, maze.END], [3, 4, maze.END],  # both, though it is a dead end
    [5, 6, maze.END], [6, maze.END, PAD],  # none
    [6, 7, 8], [6, 7, 8],  # both are no answers
  ])
  looks = append(append_reply(twice, reply), second, 2)
  rows = {"solve": solve, "judge": looks}
  judge = jax.jit(method.judge)
  verdicts, metrics = judge(KEY, state_of(), problems, rows)
  paid = verdicts["solve"]
  assert paid.reward[:, 0].tolist() == [0.5, 1, 0, 0]
  assert paid.known[:, 0].tolist() == [1] * 4
  assert not np.any(verdicts["judge"].known)
  vote = metrics["judge/vote"]
  assert (vote.total, vote.count) == (1.5, 4)
  # The verifier would have said something else.
  assert metrics["judge/reward_1"].total == np.sum(
    TASK.verify(problems.answer[solve.problem], solve, 1).reward
  )
  # A row without a second look is not judged.
  ended = looks._replace(
    turn=jnp.where((jnp.arange(8) < 2)[:, None] & (looks.turn == 2), -1,
                   looks.turn)
  )
  verdicts, _ = judge(KEY, state_of(), problems, rows | {"judge": ended})
  assert verdicts["solve"].known[:, 0].tolist() == [0, 1, 1, 1]


def test_second_attempts_continue_their_first_ones():
  """Each attempt is looked at `votes` times, with looks of their own."""
  method = ssr_zero.make(
    {"policy": MODEL}, TASK, (), turns=(3, 3), problems=4, samples=2, votes=3
  )
  keys = jax.random.split(KEY, 4)
  rows = jax.jit(method.generate)(keys, state_of(), PROBLEMS)
  solve, looks = rows["solve"], rows["judge"]
  assert looks.problem.tolist() == np.repeat(np.arange(4), 6).tolist()
  second = []
  for b in range(24):
    own = text(solve.tokens[b // 3])
    mine = text(looks.tokens[b])
    assert mine[: len(own) + 1] == [*own, maze.AGAIN]
    second.append(tuple(mine[len(own) + 1 :]))
  assert all(second) and len(set(second)) > 12
