"""Tree search against a slow one in Python over the same steps of text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import siblings
from sitrain.judge.verifier import verify, verify_as_one_turn
from sitrain.models.logprobs import token_scores
from sitrain.rollout import contexts, steps, tree
from sitrain.rollout.play import play_on
from sitrain.types import GIVEN, PAD, ROOT, Episodes, Verdict

DEPTH, WIDTH, EXPLORE, COUNT = 3, 2, 1.5, 3


@pytest.fixture(scope="module")
def parts(toy):
  """(problems, keys, step, evaluate): a step is an attempt at a maze."""
  model, params, task = toy
  problems = jax.jit(task.problems, static_argnums=1)(jax.random.key(0), COUNT)
  slots = problems.prompt.shape[1]

  def step(keys, rows, live):
    """An attempt; from the second on, behind the instruction to try again."""
    length = jnp.sum(rows.turn != PAD, axis=1)
    reply = task.reply(problems.answer, rows, jnp.zeros_like(rows.problem))
    first = ~live | (length == slots)
    rows = contexts.append_reply(rows, reply._replace(done=first))
    return play_on(
      keys, model, params, problems, rows, samples=1, reply=task.reply,
      turns=(task.turn_length,), eos=task.eos, temperature=1.0, live=live,
    )

  def evaluate(rows):
    """Numbers that differ from row to row; one first room in three ends it."""
    place = jnp.arange(1, rows.tokens.shape[1] + 1)
    sums = jnp.sum(jnp.where(rows.turn == PAD, 0, rows.tokens * place), axis=1)
    own = jnp.sum(jnp.where(rows.turn == 1, rows.tokens, 0), axis=1)
    done = jnp.any(rows.turn == 1, axis=1) & (own % 3 == 0)
    return (sums % 97) / 97, done

  return problems, jax.random.split(jax.random.key(1), COUNT), step, evaluate


@pytest.fixture(scope="module")
def grown(parts):
  problems, keys, step, evaluate = parts
  return jax.jit(lambda keys, problems: tree.search(
    keys, step, evaluate, problems, nodes=12, depth=DEPTH, width=WIDTH,
    explore=EXPLORE,
  ))(keys, problems)


class Slow:
  """A node of the slow search, with all that lies below it."""

  def __init__(self, row, key, depth, estimate, done, parent):
    self.row, self.key, self.depth, self.parent = row, key, depth, parent
    self.estimate, self.done = float(estimate), bool(done)
    self.visits, self.total, self.children = 0, 0.0, {}

  @property
  def value(self):
    return self.total / self.visits

  def is_end(self):
    return self.done or self.depth == DEPTH


def best_child(node):
  """PUCT: values as their place between least and most, unseen ones least."""
  values = [node.children[a].value for a in node.children]
  low, high = min([node.value, *values]), max([node.value, *values])
  scores = []
  for child in range(WIDTH):
    seen = node.children.get(child)
    place = ((seen.value if seen else low) - low) / max(high - low, 1e-8)
    visits = seen.visits if seen else 0
    scores.append(
      place + EXPLORE / WIDTH * np.sqrt(node.visits) / (1 + visits)
    )
  return int(np.argmax(scores))


def slow_search(parts, problem, nodes):
  """The root, and all nodes in the order in which they were made."""
  problems, keys, step, evaluate = parts
  step, evaluate = jax.jit(step), jax.jit(evaluate)
  begun = contexts.widen(contexts.begin(problems, 1), 40)

  def visit(node, estimate):
    while node:
      node.visits, node.total = node.visits + 1, node.total + estimate
      node = node.parent

  def made(rows, key, depth, parent):
    estimate, done = evaluate(rows)
    row = jax.tree.map(lambda x: np.asarray(x[problem]), rows)
    return Slow(row, key, depth, estimate[problem], done[problem], parent)

  root = made(begun, keys[problem], 0, None)
  visit(root, root.estimate)
  order = [root]
  for _ in range(nodes):
    node = root
    while not node.is_end():
      child = best_child(node)
      if child not in node.children:
        key = jax.random.fold_in(node.key, child)
        turn = np.where(node.row.turn == PAD, PAD, GIVEN)
        row = node.row._replace(turn=turn, logprob=0 * node.row.logprob)
        rows = jax.tree.map(lambda x: jnp.stack([x] * COUNT), row)
        live = jnp.arange(COUNT) == problem
        rows = step(jnp.stack([key] * COUNT), rows, live)
        rows = contexts.narrow(rows, 40)
        node.children[child] = made(rows, key, node.depth + 1, node)
        order.append(node.children[child])
        node = node.children[child]
        break
      node = node.children[child]
    visit(node, node.estimate)
  return order


def text(turn, tokens):
  turn, tokens = np.asarray(turn), np.asarray(tokens)
  return tokens[turn != PAD].tolist(), turn[turn != PAD].tolist()


def test_the_tree_is_that_of_a_slow_search(parts, grown):
  ends, depths = 0, set()
  for problem in range(COUNT):
    order = slow_search(parts, problem, 12)
    used = np.flatnonzero(grown.used[problem])
    assert len(used) == len(order)
    place = {id(node): i for node, i in zip(order, used, strict=True)}
    for node, i in zip(order, used, strict=True):
      rows = grown.episodes
      found = text(rows.turn[problem, i], rows.tokens[problem, i])
      assert found == text(node.row.turn, node.row.tokens)
      want = place[id(node.parent)] if node.parent else ROOT
      assert grown.parent[problem, i] == want
      assert grown.visits[problem, i] == node.visits
      assert grown.depth[problem, i] == node.depth
      assert bool(grown.done[problem, i]) == node.done
      np.testing.assert_allclose(
        [grown.estimate[problem, i], grown.value[problem, i]],
        [node.estimate, node.value], rtol=1e-5,
      )
      ends += node.done and node.visits > 1
      depths.add(node.depth)
  assert ends and depths == {0, 1, 2, 3}, "no end was met again"
  assert np.any(~np.asarray(grown.used)), "no simulation ended in a known node"


def test_nodes_as_rows(toy, grown):
  model, params, _ = toy
  rows = tree.to_episodes(grown)
  count, nodes = grown.used.shape
  used, turn = np.asarray(grown.used).reshape(-1), np.asarray(rows.turn)
  assert rows.problem.tolist() == np.repeat(np.arange(count), nodes).tolist()
  assert np.all(turn[~used] == PAD)
  assert np.all(np.asarray(rows.parent)[~used] == ROOT)
  assert set(np.unique(turn).tolist()) == {PAD, GIVEN, 1}
  siblings = {}
  for row in np.flatnonzero(used):
    tokens, marks = text(turn[row], rows.tokens[row])
    parent = int(rows.parent[row])
    if row % nodes == 0:
      assert parent == ROOT and set(marks) == {GIVEN}
      continue
    # Its own step stands behind all that its parent holds.
    before, _ = text(turn[parent], rows.tokens[parent])
    assert rows.problem[parent] == rows.problem[row]
    assert tokens[: len(before)] == before
    assert set(marks[: len(before)]) == {GIVEN} and marks[-1] == 1
    siblings.setdefault(parent, []).append(tuple(tokens))
  assert max(map(len, siblings.values())) == WIDTH
  assert len({x for one in siblings.values() for x in one}) > count * 3
  scores = jax.jit(lambda rows: token_scores(
    model, params, rows.tokens, rows.turn, rows.path, inputs=rows.tokens,
    temperature=1.0,
  ))(rows).logprob
  own = turn == 1
  np.testing.assert_allclose(
    np.asarray(rows.logprob)[own], np.asarray(scores)[own], atol=1e-5
  )
  assert np.all(np.asarray(rows.logprob)[~own] == 0)


def test_numbers_below_one_are_refused(parts):
  problems, keys, step, evaluate = parts
  with pytest.raises(ValueError, match="width=0: each must be at least 1"):
    tree.search(
      keys, step, evaluate, problems, nodes=2, depth=1, width=0, explore=1.0
    )


@pytest.fixture(scope="module")
def attempts(toy):
  """(problems, rows): nodes of a token each, with rollouts."""
  model, params, task = toy
  problems = jax.jit(task.problems, static_argnums=1)(jax.random.key(3), 4)

  def grown(keys):
    return steps.grow(
      keys, model, params, task, problems, reward, step=1,
      limit=task.turn_length, temperature=1.0, nodes=10, depth=task.turn_length,
      width=2, explore=1.0,
    )

  def reward(rows):
    sums = jnp.sum(jnp.where(rows.turn > GIVEN, rows.tokens, 0), axis=1)
    return jnp.where(sums % 2 == 0, 1.0, -0.5)

  rows = jax.jit(grown)(jax.random.split(jax.random.key(4), 4))
  return problems, jax.tree.map(np.asarray, rows)


def test_children_continue_steps_and_not_rollouts(toy, attempts):
  model, params, task = toy
  problems, rows = attempts
  slots, longer, ended = problems.prompt.shape[1], 0, 0
  assert rows.tokens.shape == (4 * 11, slots + task.turn_length)
  for row in range(len(rows.tokens)):
    tokens, marks = text(rows.turn[row], rows.tokens[row])
    parent = int(rows.parent[row])
    if parent == ROOT:
      assert set(marks) <= {GIVEN}
      continue
    before, old = text(rows.turn[parent], rows.tokens[parent])
    prefix = [t for t, m in zip(before, old) if m < 2]
    assert tokens[: len(prefix) + 1][:-1] == prefix
    assert marks[: len(prefix) + 1] == [GIVEN] * len(prefix) + [1]
    assert set(marks[len(prefix) + 1 :]) <= {2}
    end = [t in task.eos for t in tokens[slots:]]
    assert not any(end[:-1])
    assert end[-1] or len(end) == task.turn_length
    longer += marks[-1] == 2
    ended += marks[-1] == 1 and end[-1]
  assert longer > 8 and ended
  scores = jax.jit(lambda rows: token_scores(
    model, params, rows.tokens, rows.turn, rows.path, inputs=rows.tokens,
    temperature=1.0,
  ))(rows).logprob
  own = rows.turn > GIVEN
  np.testing.assert_allclose(
    rows.logprob[own], np.asarray(scores)[own], atol=1e-5
  )


def test_nodes_are_judged_as_whole_attempts(toy, attempts):
  """The steps before a node's own count, and its rollout, and no prompt."""
  task = toy[2]
  problems, rows = attempts
  slots = problems.prompt.shape[1]
  rows = rows._replace(tokens=rows.tokens.copy())
  want = np.zeros(len(rows.tokens))
  for row in range(0, len(want), 3):
    b = int(rows.problem[row])
    walk = walk_of(np.asarray(problems.answer[b]), task.turn_length)
    there = rows.turn[row] != PAD
    if there.sum() != slots + task.turn_length:
      continue
    rows.tokens[row, slots : slots + len(walk)] = walk
    want[row] = 1
  assert want.sum() > 2
  judge = jax.jit(functools.partial(verify_as_one_turn, task))
  verdict, _ = judge(problems, rows)
  written = np.any(rows.turn > GIVEN, axis=1)
  np.testing.assert_array_equal(verdict.known[:, 0], written)
  found = np.asarray(verdict.reward[:, 0])
  assert np.all(found[want > 0] == 1)
  # Without the steps before, and without the rollout, none of them is right.
  alone = jax.jit(
    lambda problems, rows: verify(task, problems, rows, 1).reward[:, 0]
  )(problems, rows)
  assert not np.any(np.asarray(alone)[want > 0])


def walk_of(answer, length):
  """The way to the exit: from the right door along the table."""
  doors = len(answer) - 12
  walk = [int(answer[-2])]
  while len(walk) < length:
    walk.append(int(answer[doors + walk[-1]]))
  return walk


def slow_values(outcome, known, parent):
  """Q and visits of every row, by walking up from each outcome."""
  total, count = np.zeros((2, len(parent)))
  for row, (x, there) in enumerate(zip(outcome, known)):
    while there and row >= 0:
      total[row], count[row] = total[row] + x, count[row] + 1
      row = parent[row]
  return total / np.maximum(count, 1), count


def forest(seed, problems=5, nodes=9, width=3):
  """Rows of random trees: parents come first, and steps are one token."""
  rng = np.random.default_rng(seed)
  count = problems * nodes
  parent = np.full(count, ROOT)
  depth = np.zeros(count, int)
  for row in range(count):
    first = row - row % nodes
    open_to = [
      p for p in range(first, row)
      if depth[p] < 3 and np.sum(parent == p) < width
    ]
    if row > first:
      parent[row] = rng.choice(open_to)
      depth[row] = depth[parent[row]] + 1
  used = (rng.random(count) < 0.85) | (parent == ROOT)
  for row in range(count):  # below an unused node there is none
    used[row] &= parent[row] == ROOT or used[max(parent[row], 0)]
  parent = np.where(used, parent, ROOT)
  tokens = np.where(used[:, None], rng.integers(0, 2, (count, 6)), PAD)
  turn = np.where(used[:, None], np.array([0, 0, 0, 1, 2, 2]), PAD)
  root = np.arange(count) % nodes == 0
  turn[root, 3:] = PAD
  zeros = np.zeros(tokens.shape, np.int32)
  rows = Episodes(
    tokens.astype(np.int32), turn, zeros * 0.0, zeros,
    np.repeat(np.arange(problems), nodes), parent,
  )
  known = (used & ~root & (rng.random(count) < 0.9)).astype(np.float32)
  reward = np.where(known > 0, rng.integers(0, 2, count), np.nan)
  verdict = Verdict(
    reward[:, None].astype(np.float32), known[:, None].astype(np.float32)
  )
  return rows, verdict


pairs_of = jax.jit(
  functools.partial(siblings.sibling_pairs, problems=5, depth=3)
)


@pytest.mark.parametrize("seed", range(4))
def test_sibling_pairs_are_those_of_a_slow_walk(seed):
  rows, verdict = forest(seed)
  outcome = np.where(verdict.reward[:, 0] > 0.5, 1.0, -0.5)
  value, count = slow_values(outcome, verdict.known[:, 0] > 0, rows.parent)
  found = siblings.tree_values(verdict, jnp.asarray(rows.parent), 3)
  np.testing.assert_allclose(found[0], value, rtol=1e-5)
  np.testing.assert_array_equal(found[1], count)
  best, worst, there = map(np.asarray, pairs_of(rows, verdict))
  pairs, want = set(), set()
  for b, w in zip(best[there], worst[there]):
    pairs.add((int(b), int(w)))
  for problem in range(5):
    node = problem * 9
    for _ in range(3):
      children = [
        row for row in range(len(value))
        if rows.parent[row] == node and count[row]
      ]
      if not children:
        break
      high = max(children, key=lambda row: (value[row], -row))
      low = min(children, key=lambda row: (value[row], row))
      if value[high] > value[low] and (
        rows.tokens[high, :4].tolist() != rows.tokens[low, :4].tolist()
      ):
        want.add((high, low))
      node = max(children, key=lambda row: (count[row], value[row], -row))
  assert pairs == want and len(pairs) > 1


def test_steps_that_cannot_be_are_refused(toy):
  task = toy[2]
  with pytest.raises(ValueError, match="step=6: set the tokens"):
    steps.depth_of(task, (5,), 6)
  with pytest.raises(ValueError, match="grown in one turn"):
    steps.depth_of(task, (5, 5), 1)
  with pytest.raises(ValueError, match="verified on the host"):
    steps.depth_of(task._replace(on_host=True), (5,), 1)
  assert steps.depth_of(task, (5,), 2) == 3
