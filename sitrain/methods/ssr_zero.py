"""SSR-Zero: the policy's own judgements are the only reward.

arXiv:2505.16637 (2025): the policy judges its translations, without a reward
model. Here it makes second attempts, and the share of them that agree with the
first is the reward. Only first attempts are trained; there is no format reward.
"""

import jax.numpy as jnp

from sitrain.judge.verifier import verdict_metrics, verify, written
from sitrain.losses.reduce import mean
from sitrain.methods import checks, reinforce, verbs
from sitrain.models.roles import params_of
from sitrain.rollout.contexts import append_reply
from sitrain.rollout.play import play_on, row_keys
from sitrain.types import Method, Task, Verdict


@verbs.forwards(reinforce.make, without=("shape", "kl_weights", "offline"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  samples: int, votes: int = 4, beta: float = 0.01, temperature: float = 1.0,
  **options,
) -> Method:
  """`turns`: of both attempts. `votes` second attempts judge a row."""
  checks.check_turns(task, turns, least=2)
  method = reinforce.make(
    models, task, optimizer, turns=turns[:1], samples=samples,
    temperature=temperature, shape=lambda reward: reward, kl_weights=(beta,),
    **options,
  )

  def generate(keys, state, problems):
    solve = method.generate(keys, state, problems)
    first = jnp.ones_like(solve.problem)
    reply = task.reply(problems.answer[solve.problem], solve, first)
    judge = play_on(
      row_keys(keys, samples), models["policy"], params_of(state, "policy"),
      problems, append_reply(solve, reply), samples=votes, turns=turns[1:2],
      first_turn=2, live=~reply.done, reply=task.reply, eos=task.eos,
      temperature=temperature,
    )
    return {"solve": solve, "judge": judge}

  def judge(key, state, problems, rows):
    solve, again = rows["solve"], rows["judge"]
    first, second = task.final(again, 2).T
    share = lambda x: x.reshape(-1, votes).mean(1, jnp.float32, keepdims=True)
    same = (first == second) & (first >= 0)
    votes_of = Verdict(share(same), share(written(again, 2)[:, 1]))
    unknown = jnp.zeros((first.shape[0], 2))
    # The verifier serves the metrics only; it is no reward.
    report = verdict_metrics(task, solve, verify(task, problems, solve, 1))
    report["judge/vote"] = mean(votes_of.reward, votes_of.known)
    return {"solve": votes_of, "judge": Verdict(unknown, unknown)}, report

  method = verbs.of_kind("solve", method)
  return method._replace(generate=generate, judge=judge)
