"""SPARK's selective advantage: a step is trained where its verdict agrees.

arXiv:2512.03244, after a description of it: its authors have published no code.
A token keeps the advantage of its row if its step is right and the advantage is
0 or above, or if its step is wrong and it is below; else it gets 0. There a
model that was trained on votes judges the steps, here the task does. The other
rewards of the paper, and that model, are not here.
"""

import jax.numpy as jnp

from sitrain.curate.segments import gated, value_of_segment
from sitrain.judge.verifier import step_names
from sitrain.losses.reduce import mean
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  ends: str = "", beta: float = 0.001, kl: str = "k3", clip: float = 0.2,
  estimate: str = "group_normalise_sample", aggregate: str = "token_mean",
  **options,
) -> Method:
  """GRPO on a task that judges steps, as chain with steps=True.

  `ends`: characters that end a step and are its last token; "": every token is
  a step. Other options: see reinforce.make. Raises ValueError for a task
  without the named rewards step_1, step_2, and so on.
  """
  names = step_names(task)
  every = tuple(range(task.tokenizer.size))
  marks = tuple(task.tokenizer.encode(ends)) if ends else every
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, clip=clip, estimate=estimate,
    aggregate=aggregate, **options,
  )

  def curate(key, state, problems, episodes, verdict):
    batch, metrics = method.curate(key, state, problems, episodes, verdict)
    steps = jnp.stack([verdict.parts[name] for name in names], axis=2)
    right = value_of_segment(steps, episodes.tokens, episodes.turn, marks)
    shape, whole = batch.mask.shape, batch.targets.advantage
    gain = gated(whole.reshape(right.shape), right > 0, jnp.ones_like(right))
    gain = gain.reshape(shape)
    kept = mean((gain != 0).astype(jnp.float32), (whole != 0) * batch.mask)
    targets = batch.targets._replace(advantage=gain)
    return batch._replace(targets=targets), metrics | {"curate/agrees": kept}

  return method._replace(curate=curate)
