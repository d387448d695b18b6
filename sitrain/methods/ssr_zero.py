"""SSR-Zero: the policy judges its own answers, and nothing else pays them.

2025 (arXiv:2505.16637): the judge is the current policy, without references or
a reward model. There it writes a score; here it looks at an attempt again, and
the reward is the share of its second looks that come to the same answer. Only
the rows that solve are trained.
"""

import jax.numpy as jnp

from sitrain.judge.verifier import verdict_metrics, verify, written
from sitrain.losses.reduce import mean
from sitrain.methods import reinforce, verbs
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
  """`turns` are an attempt and a second look; `votes` looks judge a row."""
  verbs.check_turns(task, turns, least=2)
  method = reinforce.make(
    models, task, optimizer, turns=turns[:1], samples=samples,
    temperature=temperature, shape=lambda reward: reward, kl_weights=(beta,),
    **options,
  )

  def generate(keys, state, problems):
    solve = method.generate(keys, state, problems)
    answer, first = problems.answer[solve.problem], jnp.ones_like(solve.problem)
    reply = task.reply(answer, solve, first)
    judge = play_on(
      row_keys(keys, samples), models["policy"], params_of(state, "policy"),
      problems, append_reply(solve, reply), samples=votes, turns=turns[1:2],
      first_turn=2, reply=task.reply, eos=task.eos, temperature=temperature,
    )
    return {"solve": solve, "judge": judge}

  def judge(key, state, problems, rows):
    solve, looks = rows["solve"], rows["judge"]
    answer = task.final(looks, 1).reshape(-1, votes)
    same = (answer == task.final(looks, 2).reshape(-1, votes)) & (answer >= 0)
    paid = Verdict(same.mean(axis=1, keepdims=True), written(solve, 1) * 1.0)
    unpaid = jnp.zeros((looks.problem.shape[0], 2))
    # What the verifier thinks of it is reported and pays nothing.
    right = verify(task, problems, solve, 1)
    report = verdict_metrics(task, solve, right)
    report["judge/vote"] = mean(paid.reward, paid.known)
    return {"solve": paid, "judge": Verdict(unpaid, unpaid)}, report

  def curate(key, state, posed, rows, verdicts):
    return method.curate(key, state, posed, rows["solve"], verdicts["solve"])

  return method._replace(generate=generate, judge=judge, curate=curate)
