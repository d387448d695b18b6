"""Subtle errors: right samples against themselves with an error in one step.

Xu et al. 2024 (arXiv:2410.06638, RISE, error-injected self-editing; not RISE of
rise.py): beside a right and a wrong sample of a problem the right one and its
copy with an injected error are a pair, of the changed step alone. There the
policy itself injects one of several kinds of errors; here one written number is
replaced by another. DPO in rounds as in dpo.py; weights of the terms are 1.
"""

import jax
import jax.numpy as jnp

from sitrain.curate import pairs
from sitrain.curate.edits import ids_of, inject
from sitrain.curate.select import row_noise
from sitrain.methods import checks, dpo, verbs
from sitrain.models.roles import params_of
from sitrain.types import Method, Task


@verbs.forwards(dpo.make, without=("rule", "after_prefix"))
def make(
  models: dict, task: Task, optimizer, *, beta: float = 0.4,
  anchor: float = 0.05, smoothing: float = 0.0, temperature: float = 1.0,
  reference: str = "previous", values: str = "0123456789", ends: str = "",
  **options,
) -> Method:
  """`values` are the numbers, each one token, and steps end with those of
  `ends`, or with the turn. Options: see preference.build.
  """
  checks.check_choice("reference", reference, ("previous", "held"))
  ids, stops = (ids_of(task, text) for text in (values, ends))
  if not 2 <= len(ids) == len(set(values)):
    raise ValueError(f"values={values!r}: give two or more, each once")
  method = dpo.make(
    models, task, optimizer, beta=beta, anchor=anchor, smoothing=smoothing,
    temperature=temperature, reference=reference, rule="right_and_wrong",
    **options,
  )

  def curate(key, state, problems, episodes, verdict):
    full, metrics = method.curate(key, state, problems, episodes, verdict)
    right, keys = pairs.chosen_rows(full), jax.random.split(key)
    noise, shift = (row_noise(k, right.tokens) for k in keys)
    edited = inject(right, noise, shift[:, 0], ids=ids, ends=stops)
    scores = pairs.score_pairs(
      models["policy"], params_of(state, "reference"), right, edited.rows,
      temperature=temperature,
    )
    edit = pairs.pair_batch(
      right, edited.rows, scores, label=full.targets.label,
      trained=jnp.ones((len(right.problem), verdict.reward.shape[1]), bool),
    )
    paired = jnp.any(full.mask > 0, axis=(1, 2))[:, None] & edited.step
    edit = edit._replace(mask=edit.mask * paired[:, None])
    # The two pairs of a problem stand together.
    both = lambda x, y: jnp.stack([x, y], 1).reshape(-1, *x.shape[1:])
    return jax.tree.map(both, full, edit), metrics

  return method._replace(curate=curate)
