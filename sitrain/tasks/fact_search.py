"""Questions about facts, with a search that answers: every search is a turn.

Prompt and world are those of `facts`. A turn is a search, such as `?Aa=`, and
the policy reads the entity that the world has, or `<bad>` where it has none; or
a turn is the answer, such as `>C<end>`, which ends the episode.

Source: the search engines of SSRL (2025, arXiv:2508.10874) and MaskSearch
(2025, arXiv:2505.20285), here a look-up in a table. What is read is not
sampled, so that no loss is taken on it.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sitrain.tasks import facts, roles
from sitrain.tasks.attempt import attempt
from sitrain.tasks.draw import draw
from sitrain.types import PAD, Episodes, Problems, Reply, Task, Verdict

LONGEST = 4  # tokens of a search


def make(
  *,
  entities: int = 20,
  relations: int = 4,
  world: int = 0,
  two_hop: float = 0.5,
  held_out: float = 0.25,
  split: str = "train",
  mistake: float = 0.15,
) -> Task:
  """The questions of `facts.make`, of its worlds, with its options.

  Every turn gets reward 1 iff one is the right answer, else 0. In `solution`
  each search asks for another relation with probability mistake, and goes on
  from what it finds. `final` of a turn is its answer, -1 for a search. Raises
  ValueError for impossible options.
  """
  options = facts.Options(
    entities, relations, world, two_hop, held_out, split, 1.0, mistake, 0.0,
    0.0,
  )
  facts.check(options)
  known = facts.facts_of(entities, relations, world)
  return Task(
    problems=lambda key, n: draw(
      key, n, partial(_problem, options=options), size=6
    ),
    verify=_verify,
    reply=partial(_search, known=known),
    final=_answers,
    level=lambda problems: problems.answer[:, 0] - 1,
    levels=facts.LEVELS,
    eos=(facts.EQUALS, facts.END),
    turn_length=LONGEST,
    tokenizer=roles.tokenizer(facts.NAMES),
    table=(),
    on_host=False,
  )


def _problem(chance: Float[Array, " 6"], options: facts.Options) -> Problems:
  """One problem, without the leading axis."""
  prompt, question = facts.question_of(chance[:4], options)
  known = jnp.asarray(facts.facts_of(*options[:3]))
  hops, entity, *relations = question[:4]
  asked, found = [], []
  for relation, one in zip(relations, chance[4:]):
    relation = facts.slip(relation, one, options.mistake, options.relations)
    asked.append((entity, relation, jnp.int32(PAD)))
    entity = known[entity, relation]
    found.append(entity)
  answer = jnp.where(hops == 1, found[0], found[1])
  turns = facts.write(asked, hops, answer, jnp.bool_(True))
  return Problems(prompt, question, roles.pack(turns))


def _search(
  answer, episodes: Episodes, turn: Int[Array, " B"], known: np.ndarray
) -> Reply:
  """What the world says to the turn that has just ended."""
  own = jnp.where(episodes.turn == turn[:, None], 1, PAD)
  walk = attempt(episodes._replace(turn=own), 1, LONGEST + 1)
  ask, entity, relation, equals, more = walk.T
  formed = (ask == facts.ASK) & (equals == facts.EQUALS) & (more == PAD)
  formed &= facts.is_entity(entity) & facts.is_relation(relation)
  relation = jnp.where(formed, relation - facts.FIRST_RELATION, 0)
  value = facts.padded(known)[jnp.where(formed, entity, 0), relation]
  message = jnp.where(formed & (value != PAD), value, facts.BAD)
  done = jnp.any(walk == facts.END, axis=1)
  return Reply(message[:, None].astype(jnp.int32), done)


def _answers(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
  return jnp.stack([
    facts.value_read(attempt(episodes, k + 1, LONGEST)) for k in range(turns)
  ], axis=1)


def _verify(answer, episodes: Episodes, turns: int) -> Verdict:
  # An answer ends the episode, so there is at most one.
  given = _answers(episodes, turns)
  won = jnp.any(given == answer[:, 5:6], axis=1, keepdims=True)
  reward = jnp.broadcast_to(won, given.shape).astype(jnp.float32)
  return Verdict(reward, jnp.ones_like(reward))
