"""Tree search against a slow one in Python over the same steps of text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.models.logprobs import token_scores
from sitrain.rollout import contexts, tree
from sitrain.rollout.play import play_on
from sitrain.types import GIVEN, PAD, ROOT

DEPTH, WIDTH, EXPLORE, COUNT = 3, 2, 1.5, 3


@pytest.fixture(scope="module")
def parts(toy):
  """(problems, keys, step, evaluate): a step is an attempt at a maze."""
  model, params, task = toy
  problems = task.problems(jax.random.key(0), COUNT)
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
