"""Problems as texts, and episodes that a test has written."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.types import GIVEN, OFFLINE, PAD, Episodes

KEY = 7


def draw(task, n):
  return jax.jit(task.problems, static_argnums=1)(jax.random.key(KEY), n)


def texts(task, rows):
  return [task.tokenizer.decode(row) for row in np.asarray(rows)]


def write(task, prompts, *turns, again="?"):
  """Episodes that answer row i of the prompts with text i of every turn."""
  rows = []
  for row in zip(prompts, *turns, strict=True):
    marks = [GIVEN]
    for k in range(1, len(turns) + 1):
      marks += [k, GIVEN]
    parts = [again] * len(marks)
    parts[0::2] = [row[0]] + [again] * len(turns)
    parts[1::2] = row[1:]
    rows.append(
      (
        task.tokenizer.encode("".join(parts)),
        [
          m for m, part in zip(marks, parts, strict=True)
          for _ in task.tokenizer.encode(part)
        ],
      )
    )
  width = max(len(tokens) for tokens, _ in rows)
  return pack(
    *(
      [list(row[i]) + [PAD] * (width - len(row[i])) for row in rows]
      for i in (0, 1)
    )
  )


def pack(tokens, turn):
  tokens, turn = np.array(tokens, np.int32), np.array(turn, np.int32)
  rows = np.arange(len(tokens), dtype=np.int32)
  zeros = np.zeros_like(tokens)
  parent = np.full_like(rows, OFFLINE)
  return Episodes(
    *map(
      jnp.asarray,
      (tokens, turn, zeros.astype(np.float32), zeros, rows, parent),
    )
  )


def judge(task, answer, episodes, turns):
  verdict = jax.jit(task.verify, static_argnums=2)(answer, episodes, turns)
  assert verdict.known.shape == verdict.reward.shape
  assert np.all(np.asarray(verdict.known) == 1)
  return np.asarray(verdict.reward)


def strings(alphabet, more):
  """All of up to 3 characters, and those of 3 with one of `more` behind."""
  shorter, three = (
    [
      "".join(one)
      for n in sizes
      for one in itertools.product(alphabet, repeat=n)
    ]
    for sizes in (range(3), (3,))
  )
  return shorter + three + [text + end for text in three for end in more]


def mutated(source, text, alphabet):
  """The text with one character replaced, added or taken away, or as it is."""
  place = source.randrange(len(text))
  kind, one = source.randrange(4), source.choice(alphabet)
  ends = {0: place + 1, 1: place, 2: place + 1}
  if kind == 3:
    return text
  return text[:place] + one * (kind < 2) + text[ends[kind] :]


def close(hits, share):
  """Whether a share of independent draws is within 4.5 deviations."""
  hits, share = np.asarray(hits), np.broadcast_to(share, np.shape(hits))
  deviation = np.sqrt(np.sum(share * (1 - share)))
  return len(hits) > 400 and abs(np.sum(hits - share)) < 4.5 * deviation


def rows_of(problems, index):
  return jax.tree.map(lambda x: x[np.asarray(index)], problems)


def attempts(task, problems):
  """The two attempts of each solution, as texts with their ends."""
  ends = re.escape("".join(task.tokenizer.decode(end) for end in task.eos))
  both = [
    re.findall(f"[^{ends}]*[{ends}]", text)
    for text in texts(task, problems.solution)
  ]
  assert {len(pair) for pair in both} == {2}
  return np.array(both)
