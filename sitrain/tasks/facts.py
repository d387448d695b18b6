"""Facts of a closed world, and questions that need one or two of them.

A fact `Aa=B` says that relation `a` leads from entity `A` to `B`; the seed of
the world fixes all of them. Prompt: `Aa:`, or `Aab:` for the relation `b` of
what `Aa` is; left-padded. Attempt: searches that the policy answers itself,
such as `?Aa=B?Bb=C`, or none; then the answer and `<end>`, such as `>C<end>`.

Source: questions about what stands in the weights, as SSRL searches them (2025,
arXiv:2508.10874). Here entities are letters, a search is a key and its result
one entity, there is no text to think in, and the world is memorised from the
base corpus. `fact_search` has a real search instead.
"""

from functools import cache, partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import roles
from sitrain.tasks.attempt import attempt
from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
  integers_below,
  second_attempt,
  task_of,
)
from sitrain.types import PAD, Episodes, Problems, Task, Verdict

HOPS = 2
ENTITIES, RELATIONS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefgh"
CHARACTERS = ENTITIES + RELATIONS + "?=>:"
NAMES = roles.names_of(CHARACTERS, parts=HOPS)
FIRST_RELATION = len(ENTITIES)
ASK, EQUALS, REACH, COLON, OK, BAD, RETRY, END, PART = (
  NAMES.index(name) for name in
  ("?", "=", ">", ":", "<ok>", "<bad>", "<retry>", "<end>", "<bad@1>")
)
SEARCH, ANSWER = 5, 3  # tokens of `?Aa=B` and of `>B<end>`
SPLITS = ("all", "train", "test")
LEVELS = ("one_hop", "two_hop")


class Options(NamedTuple):
  """The options that make the problems."""

  entities: int
  relations: int
  world: int
  two_hop: float
  held_out: float
  split: str
  searched: float
  mistake: float
  copied: float
  corrupted: float


class Attempt(NamedTuple):
  """The parts of an attempt."""

  searches: Int[Array, " B"]
  facts: Int[Array, "B 2 3"]  # entity, relation, value; PAD: no search
  answer: Int[Array, " B"]
  fits: Bool[Array, " B"]  # whether all of it has the form of an attempt


def make(
  *,
  entities: int = 20,
  relations: int = 4,
  world: int = 0,
  two_hop: float = 0.5,
  held_out: float = 0.25,
  split: str = "train",
  searched: float = 0.5,
  mistake: float = 0.15,
  copied: float = 0.10,
  corrupted: float = 0.15,
  form: float = 0.0,
  feedback: str = "none",
) -> Task:
  """Questions about a world of entities x relations facts; `world` is its seed.

  two_hop: the probability of a question of two hops. held_out: the share of
  these that is not posed with split "train"; with "test" only it is posed, with
  "all" every one is. Questions of one hop are held out of nothing.

  searched, mistake, copied, corrupted: the base corpus. Its first attempt has a
  search for each hop with probability searched, else the answer alone; each
  value that it finds, or the answer alone, is another entity with probability
  mistake, and it goes on from there. Its second is a copy, a copy with another
  answer, or drawn like the first, whether the first was right or wrong.

  Reward: 1 - form iff the attempt is well-formed and its answer right; and form
  iff it is well-formed and has one search for each hop. Where an evaluation is
  to count right answers alone, set form to 0 in it. feedback: see
  roles.with_feedback; `<bad@k>`: search k is the first with a wrong result,
  `<bad>`: the fault is elsewhere. Answer fields: hops, entity, relations (PAD:
  none), the entities that they lead to. `final` is the answer. Raises
  ValueError for impossible options.
  """
  options = Options(
    entities, relations, world, two_hop, held_out, split, searched, mistake,
    copied, corrupted,
  )
  check(options)
  check_probability("form", form)
  task = task_of(
    partial(_problem, options=options),
    _right,
    _final,
    size=14,
    alphabet=CHARACTERS,
    eos=(END,),
    again=RETRY,
    length=HOPS * SEARCH + ANSWER,
    level=lambda problems: problems.answer[:, 0] - 1,
    levels=LEVELS,
  )._replace(tokenizer=roles.tokenizer(NAMES))
  if form:
    verify = partial(_verify_form, form=form)
    task = task._replace(verify=verify, rewards=("right", "form"))
  of_world = facts_of(entities, relations, world)
  return roles.with_feedback(
    task, partial(_diagnose, facts=of_world), feedback
  )


def check(options: Options) -> None:
  """Raises ValueError for impossible options."""
  for name, most in (
    ("entities", len(ENTITIES)), ("relations", len(RELATIONS))
  ):
    if not 2 <= getattr(options, name) <= most:
      raise ValueError(f"{name}={getattr(options, name)}: use 2 to {most}")
  if options.split not in SPLITS:
    raise ValueError(
      f"split={options.split!r}: choose one of {', '.join(SPLITS)}"
    )
  for name in ("two_hop", "held_out", "searched", "mistake"):
    check_probability(name, getattr(options, name))
  if not len(questions(*options[:3], options.held_out, options.split)):
    raise ValueError(
      f"held_out={options.held_out} leaves no question of two hops to split "
      f"{options.split!r}: give a share between 0 and 1"
    )
  check_corpus(options.copied, options.corrupted)


def facts_of(
  entities: int, relations: int, world: int
) -> Int[np.ndarray, "E R"]:
  """The facts of a world: the entity that each relation of each leads to.

  The whole knowledge, by which every question is solved exactly.
  """
  rng = np.random.default_rng(world)
  return rng.integers(entities, size=(entities, relations), dtype=np.int32)


@cache
def questions(
  entities: int, relations: int, world: int, held_out: float, split: str
) -> Int[np.ndarray, "Q 3"]:
  """Entity and two relations of each question of two hops of a split."""
  every = np.indices((entities, relations, relations), np.int32)
  every = every.reshape(3, -1).T
  order = np.random.default_rng((world, 1)).permutation(len(every))
  test = round(held_out * len(every))
  first, last = {
    "all": (0, None), "test": (0, test), "train": (test, None)
  }[split]
  return every[order[first:last]]


def question_of(
  chance: Float[Array, " 4"], options: Options
) -> tuple[Int[Array, " 4"], Int[Array, " 6"]]:
  """Prompt and answer fields of one problem."""
  facts = jnp.asarray(facts_of(*options[:3]))
  asked = jnp.asarray(questions(*options[:3], options.held_out, options.split))
  two = (chance[0] < options.two_hop) | (options.split == "test")
  entity, first, second = asked[integers_below(chance[1], len(asked))]
  entity = jnp.where(two, entity, integers_below(chance[2], len(facts)))
  first = jnp.where(two, first, integers_below(chance[3], options.relations))
  second = jnp.where(two, second, PAD)
  between = facts[entity, first]
  answer = jnp.where(two, facts[between, second], between)
  asks = jnp.stack([entity, first + FIRST_RELATION, second + FIRST_RELATION])
  asks = jnp.where(two, asks, jnp.stack([jnp.int32(PAD), *asks[:2]]))
  question = jnp.stack([1 + two, entity, first, second, between, answer])
  prompt = jnp.append(asks, COLON)
  return prompt.astype(jnp.int32), question.astype(jnp.int32)


def _problem(chance: Float[Array, " size"], options: Options) -> Problems:
  """One problem, without the leading axis."""
  prompt, question = question_of(chance[:4], options)
  return Problems(prompt, question, _solution(chance[4:], question, options))


def write(found: list, hops, answer, searched) -> Int[Array, " L"]:
  """An attempt; `found` has (entity, relation, value) of each search."""
  tokens = []
  for k, (entity, relation, value) in enumerate(found):
    search = [ASK, entity, FIRST_RELATION + relation, EQUALS, value]
    given = searched & (k < hops)
    tokens += [jnp.where(given, token, PAD) for token in search]
  return jnp.stack([*tokens, jnp.int32(REACH), answer, jnp.int32(END)])


def _solution(chance, question, options: Options) -> Int[Array, " L"]:
  """Two attempts of the base corpus, the second right after the first."""
  facts = jnp.asarray(facts_of(*options[:3]))
  mistake, count = options.mistake, options.entities
  hops, start, *relations = question[:4]
  tries = []
  for draws in jnp.split(chance[:8], 2):
    searched, entity, found = draws[0] < options.searched, start, []
    for relation, draw in zip(relations, draws[1:3]):
      value = slip(facts[entity, relation], draw, mistake, count)
      found.append((entity, relation, value))
      entity = value
    answer = jnp.where(hops == 1, found[0][2], found[1][2])
    alone = slip(question[5], draws[3], mistake, count)
    answer = jnp.where(searched, answer, alone)
    tries.append(write(found, hops, answer, searched))
  first, fresh = tries
  other = 1 + integers_below(chance[8], count - 1)
  spoiled = first.at[-2].set((first[-2] + other) % count)
  shares = {"copied": options.copied, "corrupted": options.corrupted}
  second = second_attempt(chance[9], first, fresh, spoiled, **shares)
  return roles.pack(jnp.concatenate([first, second])).astype(jnp.int32)


def slip(value, chance, mistake: float, count: int):
  """The value, or with probability `mistake` another below `count`."""
  other = 1 + integers_below(chance / max(mistake, 1e-9), count - 1)
  return jnp.where(chance < mistake, (value + other) % count, value)


def is_entity(token: Int[Array, "..."]) -> Bool[Array, "..."]:
  """Whether tokens are entities."""
  return (token >= 0) & (token < FIRST_RELATION)


def is_relation(token: Int[Array, "..."]) -> Bool[Array, "..."]:
  """Whether tokens are relations."""
  return (token >= FIRST_RELATION) & (
    token < FIRST_RELATION + len(RELATIONS)
  )


def value_read(walk: Int[Array, "B N"]) -> Int[Array, " B"]:
  """The answer of what is `>C<end>` and nothing else, or -1."""
  fits = (walk[:, 0] == REACH) & is_entity(walk[:, 1]) & (walk[:, 2] == END)
  fits &= jnp.sum(walk != PAD, axis=1) == ANSWER
  return jnp.where(fits, walk[:, 1], -1)


def _read(walk: Int[Array, "B N"]) -> Attempt:
  """`walk` has one place more than the longest attempt."""
  count = jnp.sum(walk != PAD, axis=1)
  searches = jnp.clip((count - ANSWER) // SEARCH, 0, HOPS)
  fits, facts = jnp.ones(len(walk), bool), []
  for k in range(HOPS):
    ask, entity, relation, equals, value = walk[:, k * SEARCH :][:, :SEARCH].T
    formed = (ask == ASK) & is_entity(entity) & is_relation(relation)
    formed &= (equals == EQUALS) & is_entity(value)
    given = k < searches
    fits &= formed | ~given
    fact = jnp.stack([entity, relation - FIRST_RELATION, value], axis=1)
    facts.append(jnp.where((given & formed)[:, None], fact, PAD))
  place = searches[:, None] * SEARCH + jnp.arange(ANSWER + 1)
  place = jnp.minimum(place, walk.shape[1] - 1)
  answer = value_read(jnp.take_along_axis(walk, place, axis=1))
  return Attempt(
    searches, jnp.stack(facts, axis=1), answer, fits & (answer >= 0)
  )


def _final(walk: Int[Array, "B N"]) -> Int[Array, " B"]:
  read = _read(walk)
  return jnp.where(read.fits, read.answer, -1)


def _right(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"]
) -> Bool[Array, " B"]:
  return _final(walk) == answer[:, 5]


def _verify_form(
  answer, episodes: Episodes, turns: int, form: float
) -> Verdict:
  walks = [
    attempt(episodes, k + 1, HOPS * SEARCH + ANSWER + 1) for k in range(turns)
  ]
  right = jnp.stack([_right(answer, walk) for walk in walks], axis=1)
  formed = jnp.stack([
    read.fits & (read.searches == answer[:, 0]) for read in map(_read, walks)
  ], axis=1)
  parts = {"right": (1 - form) * right, "form": form * formed}
  reward = parts["right"] + parts["form"]
  return Verdict(reward, jnp.ones_like(reward), parts)


def _diagnose(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], facts: np.ndarray
) -> Int[Array, "B 1"]:
  """`<ok>`, `<bad@k>` of the first search with a wrong result, or `<bad>`."""
  read, known = _read(walk), padded(facts)
  entity, relation, value = jnp.moveaxis(read.facts, 2, 0)
  wrong = (entity != PAD) & (known[entity, relation] != value)
  part = jnp.where(
    jnp.any(wrong, axis=1), PART + jnp.argmax(wrong, axis=1), BAD
  )
  message = jnp.where(read.answer == answer[:, 5], OK, part)
  return jnp.where(read.fits, message, BAD)[:, None].astype(jnp.int32)


def padded(facts: np.ndarray) -> Int[Array, "26 8"]:
  """The facts, and PAD for what the world has not."""
  rows, columns = facts.shape
  more = (
    (0, len(ENTITIES) - rows), (0, len(RELATIONS) - columns)
  )
  return jnp.asarray(np.pad(facts, more, constant_values=PAD))
