"""States and rounds made by NumPy, for verbs that are tried without a rollout.

A round looks like one that was sampled: prompts, turns that end with an end
token or at their limit, replies between them, and one row that stops early.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.rollout.play import reply_width
from sitrain.types import GIVEN, OFFLINE, PAD, ROOT, Episodes, Verdict


def numbers(shapes, seed):
  """Noise in the place of every array; norms are about 1, integers 0."""
  rng = np.random.default_rng(seed)

  def fill(path, x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.zeros(x.shape, x.dtype)
    norm = jax.tree_util.keystr(path).rstrip("']").endswith("norm")
    noise = rng.normal(size=x.shape) * (0.1 if norm else 0.4)
    return jnp.asarray(noise + norm, x.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def state_like(shapes, memory=()):
  """A state of these shapes, whose policy differs from all other roles."""
  seed = {"policy": 1, "reference": 2}
  roles = lambda trees: {
    name: numbers(tree, seed.get(name, 3)) for name, tree in trees.items()
  }
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return zeros._replace(
    params=roles(shapes.params), held=roles(shapes.held), memory=memory
  )


def round_like(shapes, problems, task, *, offline=0, tree=False):
  """(problems, rows, verdicts) like `shapes`, which are those of a round.

  In every problem one first attempt is right, so that who chooses one at random
  has no choice. Of each problem the last `offline` rows have a first attempt of
  another. One verdict is not known, and its reward is NaN. In a `tree` the
  first row of a problem is the parent of its others.
  """
  _, rows, verdicts = shapes
  if not isinstance(rows, dict):
    kind = _rows(problems, rows, verdicts, task, offline, None)
    if tree:
      kind = _as_children(kind)
    return problems, kind, _verdict(kind, verdicts)
  first = next(iter(rows.values())).problem.shape[0]
  kinds = {
    name: _rows(problems, rows[name], verdicts[name], task, offline, first)
    for name in rows
  }
  judged = {name: _verdict(kinds[name], verdicts[name]) for name in rows}
  return problems, kinds, judged


def _rows(problems, shape, verdict, task, offline, first) -> Episodes:
  """Rows of one kind; of several, later ones continue rows of the first."""
  rng = np.random.default_rng(0)
  posed, slots = problems.prompt.shape
  count, length = shape.tokens.shape
  turns, each = verdict.reward.shape[1], count // posed
  width = reply_width(task.reply, problems)
  limit = (length - slots - (turns - 1) * width) // turns
  tokens, marks = np.full((2, count, length), PAD, np.int32)
  problem = np.repeat(np.arange(posed, dtype=np.int32), each)
  parent = np.full(count, ROOT, np.int32)
  if first not in (None, count):
    parent = (np.arange(count) * first // count).astype(np.int32)
  parent[np.arange(count) % each >= each - offline] = OFFLINE
  words = [t for t in range(task.tokenizer.size) if t not in task.eos]
  replies = _replies(task, problems, turns)
  for b in range(count):
    prompt = np.asarray(problems.prompt[problem[b]])
    text = [(t, GIVEN) for t in prompt if t != PAD]
    for k in range(turns if b != 1 else 1):
      size = rng.integers(1, limit + 1)
      turn = rng.choice(words, size)
      if size < limit:
        turn[-1] = task.eos[0]
      text += [(t, GIVEN) for t in replies[k][problem[b]] if k and t != PAD]
      text += [(t, k + 1) for t in turn]
    tokens[b, : len(text)], marks[b, : len(text)] = zip(*text)
  noise = rng.uniform(-3, -0.1, tokens.shape).astype(np.float32)
  return Episodes(
    tokens, marks, np.where(marks > GIVEN, noise, np.float32(0)),
    np.zeros_like(tokens), problem, parent,
  )


def _as_children(rows):
  """The rows of each problem below its first one."""
  root = np.searchsorted(rows.problem, rows.problem)
  own = np.arange(len(root)) == root
  return rows._replace(parent=np.where(own, ROOT, root).astype(np.int32))


def _replies(task, problems, turns):
  """[K P F]; replies must not depend on what was written."""
  answer = jnp.asarray(problems.answer)
  row = jnp.zeros((len(answer), 1), jnp.int32)
  blank = Episodes(row, row, row * 0.0, row, row[:, 0], row[:, 0])
  return [
    np.asarray(task.reply(answer, blank, row[:, 0] + k).tokens)
    for k in range(turns)
  ]


def _verdict(rows, shape) -> Verdict:
  rng = np.random.default_rng(1)
  count, turns = shape.reward.shape
  each = count // (rows.problem.max() + 1)
  reward = rng.integers(0, 2, (count, turns)).astype(np.float32)
  place = np.arange(count) % each
  reward[:, 0] = place == rows.problem % each
  known = np.stack(
    [(rows.turn == k + 1).any(axis=1) for k in range(turns)], axis=1
  ).astype(np.float32)
  reward[2, -1], known[2, -1] = np.nan, 0
  return Verdict(reward, known, {name: reward for name in shape.parts})


def reordered(sampled, order):
  """The same round with its problems in another order."""
  problems, rows, verdicts = sampled
  is_kind = lambda x: isinstance(x, Episodes)
  kinds = jax.tree.leaves(rows, is_leaf=is_kind)
  place = np.argsort(order)

  def index(x):
    each = len(x) // len(order)
    return (order[:, None] * each + np.arange(each)).reshape(-1)

  def move(kind):
    if not is_kind(kind):
      return kind[index(kind)]
    each = len(kinds[0].problem) // len(order)
    parent = place[kind.parent // each] * each + kind.parent % each
    kind = kind._replace(
      problem=place[kind.problem].astype(np.int32),
      parent=np.where(kind.parent >= 0, parent, kind.parent).astype(np.int32),
    )
    return jax.tree.map(lambda x: x[index(x)], kind)

  problems = jax.tree.map(lambda x: np.asarray(x)[order], problems)
  return (problems, *jax.tree.map(move, (rows, verdicts), is_leaf=is_kind))
