"""BASH: imitation whose inputs are in part the policy's own tokens.

arXiv:2410.14655, batch-scheduled sampling: in generation a policy reads its own
tokens, in imitation those of the given solution. One pass over the solutions
draws what the policy would write in each place, and a share of the inputs is
replaced by it; targets stay what they were. The paper's numbers and the details
were not seen: a pass in every iteration, the share and its growth are inferred.
"""

import jax

from sitrain.curate.select import corrupt, row_noise
from sitrain.losses.reduce import mean
from sitrain.methods import checks, imitation, verbs
from sitrain.models.logprobs import self_tokens
from sitrain.models.roles import params_of
from sitrain.types import Method, Task


@verbs.forwards(imitation.make)
def make(
  models: dict, task: Task, optimizer, *, rate: float = 0.2, warmup: int = 0,
  temperature: float = 1.0, **options,
) -> Method:
  """Options: see imitation.make.

  `rate` of the input tokens of the turns are the policy's own, from 0 on over
  the first `warmup` iterations. `temperature`: that of their draw; 0: the
  likeliest. Raises ValueError for a rate that is no share.
  """
  checks.check_from_zero(temperature=temperature, warmup=warmup)
  checks.check_share(rate=rate)
  method = imitation.make(models, task, optimizer, **options)

  def curate(key, state, problems, episodes, verdict):
    batch, metrics = method.curate(key, state, problems, episodes, verdict)
    noise, drawn = (row_noise(k, batch.tokens) for k in jax.random.split(key))
    own = self_tokens(
      models["policy"], params_of(state, "policy"), episodes, drawn,
      temperature=temperature,
    )
    now = verbs.ramp(state, rate, warmup)
    inputs = corrupt(batch.tokens, batch.mask, noise, own, now)
    other = lambda x: mean((x != batch.tokens) * 1.0, batch.mask)
    metrics |= {"curate/changed": other(inputs), "curate/missed": other(own)}
    return batch._replace(inputs=inputs), metrics

  return method._replace(curate=curate)
