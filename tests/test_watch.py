"""What a user sees while a stage trains: evaluations, samples, alarms."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from test_contracts import PROBLEMS, SAMPLES, TASK, case_of
from test_stages import MODEL, compile_ahead, pretended, stage_of

from sitrain.evaluate import brief
from sitrain.evaluate.player import Judged, Played, Player
from sitrain.judge.groups import group_metrics
from sitrain.losses.policy_gradient import clipped, importance_ratio
from sitrain.losses.ratios import ratio_metrics, token_metrics
from sitrain.runtime import (
  alarms,
  checkpoint,
  checks,
  glossary,
  metrics,
  samples,
  services,
  sinks,
  stopping,
  watch,
)
from sitrain.runtime.options import ConfigError
from sitrain.runtime.page.one_run import alarm_lines, write_report
from sitrain.runtime.stage import run_stage, saved_part
from sitrain.runtime.start import layout
from sitrain.types import (
  ActorCriticTargets,
  Mean,
  Weights,
)

STAGE = dict(steps=6, best="eval/accuracy_1", window=8)


def run_of(folder, looks):
  """A run whose records go to files, and to nothing else."""
  run = loops.run_of(MODEL, folder)
  return run._replace(
    watch=looks, sink=services.open_all(folder, {}, {}), keep=9,
    save_every=100,
  )


def records(folder, name="metrics"):
  lines = (folder / f"{name}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def measured(seen):
  """An evaluation that says how large the parameters are, 4 times rounded."""

  def evaluate(params, say):
    size = float(sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(params)))
    seen.append(size)
    return {"eval/accuracy_1": math.sin(size), "eval/accuracy_2": 0.25}

  return evaluate


def test_evaluations_come_at_the_same_steps_after_a_resume(tmp_path, caplog):
  """After every call that reaches a multiple, with the same numbers; the best
  checkpoint is one that was evaluated, and it is saved for that.
  """
  seen, again, folders = [], [], [tmp_path / "whole", tmp_path / "cut"]
  looks = watch.Watch(every=2, evaluate=measured(seen))
  whole = run_of(folders[0], looks)
  _, progress = run_stage(whole, stage_of(**STAGE), pretended(*[1.0] * 6))
  rows = records(folders[0])
  assert [r["step"] for r in rows if "eval/accuracy_1" in r] == [2, 4, 6]
  assert len(rows) == 6 and len(set(seen)) == 3
  assert progress.window["eval/step"] == [2, 4, 6]
  assert len(progress.window["eval/accuracy_1"]) == 3
  assert checkpoint.steps(folders[0] / "one") == [2, 4, 6]
  best = checkpoint.restore(
    folders[0] / "one", "best", watch_state(whole)
  )[1]
  assert best.step == 2 * (1 + int(np.argmax(np.sin(seen))))
  # Killed in step 5, after the evaluation of step 4 was written.
  cut = run_of(folders[1], looks._replace(evaluate=measured(again)))
  with pytest.raises(ValueError, match="gradient is nan"):
    run_stage(cut, stage_of(**STAGE), pretended(*[1.0] * 4, math.nan))
  run_stage(cut, stage_of(**STAGE), pretended(1.0, 1.0))
  assert again == seen
  timed = lambda row: {n: x for n, x in row.items() if "seconds" not in n}
  assert list(map(timed, records(folders[1]))) == list(map(timed, rows))


def watch_state(run):
  return saved_part(layout(run, stage_of(**STAGE)))


def test_a_call_of_many_steps_is_evaluated_at_its_end():
  looks = watch.Watch(every=30)
  stage = stage_of(steps=100)._replace(steps_per_call=20)
  at = [n for n in range(20, 101, 20) if watch.due(looks, stage, n)]
  assert at == [40, 60, 100]
  critic = stage._replace(trained=("critic",))
  assert not watch.due(looks, critic, 40)
  assert not watch.due(watch.Watch(), stage, 40)


def test_a_plateau_of_evaluations_counts_evaluations():
  until = stopping.plateau("eval/gain", span=2, tolerance=0.01, above=0.5)
  window, ended = {}, []
  for step, x in enumerate([0.2, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9], start=1):
    # Two steps without one between any two.
    for _ in range(2):
      window = stopping.extend(window, [{"learn/nll": 1.0}], 4)
      assert not until(window) or ended
    found = {"eval/gain": x, "run/evaluation_seconds": 1.0}
    window = stopping.add_evaluation(window, found, step, 4)
    ended += [step] * until(window)
  assert ended == [7]
  assert window["eval/step"] == [4, 5, 6, 7] and len(window["learn/nll"]) == 4
  assert "run/evaluation_seconds" not in window


def test_a_metric_of_evaluations_needs_them():
  counts = checks.batches.Counts(1, 1, 1, 1, metrics=("learn/nll",))
  options = {"until": {}}
  check = lambda best, **given: checks.check_metrics(
    "stage.one", options, stage_of(best=best, steps=6), counts,
    {"turns": (3, 3)} | given,
  )
  check("eval/accuracy_2", every=2)
  check("eval/sampled_gain", every=6, every_sampled=True)
  with pytest.raises(ConfigError, match="evaluate.every=0 makes none in 6"):
    check("eval/accuracy_1")
  with pytest.raises(ConfigError, match="from 1 to 6"):
    check("eval/accuracy_1", every=7)
  with pytest.raises(ConfigError, match="did you mean 'eval/accuracy_1'"):
    check("eval/acuracy_1", every=2)
  with pytest.raises(ConfigError, match="sampled_gain"):
    check("eval/sampled_gain", every=2)


def test_shares_of_an_evaluation_by_hand(monkeypatch):
  right = np.array([[1, 1], [0, 1], [0, 0], [1, 0.0]])
  known = np.array([[1, 1], [1, 1], [1, 1], [1, 0.0]])
  cut = np.array([[0, 0], [1, 0], [0, 0], [1, 1]], bool)
  reward = right * 0.5
  judged = Judged(right, known, right.astype(int), cut, reward)
  nothing = np.zeros((4, 1), int)
  found = brief.shares(Played(nothing, nothing, judged))
  assert found["accuracy_1"] == pytest.approx(1 / 3)
  assert found["accuracy_2"] == pytest.approx(2 / 3)
  assert found["gain"] == pytest.approx(1 / 3)
  assert found["reward_2"] == pytest.approx(1 / 3)
  assert found["truncated_1"] == pytest.approx(1 / 3)
  assert found["unknown"] == 0.25 and found["truncated_2"] == 0.0
  # Greedy and sampled attempts of the same problems, which are its own.
  asked = []

  def played(player, params, key, **options):
    asked.append((jax.random.key_data(key).tolist(), options["temperature"]))
    return (), Played(nothing, nothing, judged)

  monkeypatch.setattr(brief, "played", played)
  key = jax.random.key(0)
  both = brief.brief(
    Player((), (), (), 1, 2), {}, key, problems=4, batch=4, temperature=0.7,
    sampled=True, behaviours=(str,),
  )
  assert sorted(both) == sorted(
    f"eval/{name}" for name in brief.names(2, sampled=True, behaviours=True)
  )
  # No token was written, so that there is no text to count in.
  assert math.isnan(both["eval/sampled_backtracking_2"])
  # Of three known problems two are wrong at first: one is copied, but for one
  # of ten tokens each, and one is not.
  first, second = np.arange(20).reshape(2, 10)
  tokens = np.tile(np.concatenate([first, first]), (4, 1))
  tokens[1, 15], tokens[2, 10:] = 99, second
  turn = np.tile(np.repeat([1, 2], 10), (4, 1))
  told = Played(tokens, turn, judged)
  assert brief.shares(told)["copied_2"] == 0.5
  habits = brief.habits(told, (lambda row: f"wait, {row}",))
  assert habits["backtracking_1"] == 1 and habits["verification_2"] == 0
  (one, cold), (two, warm) = asked
  assert one == two != jax.random.key_data(key).tolist()
  assert (cold, warm) == (0.0, 0.7)


def text_of(task, ids):
  return task.tokenizer.decode(np.asarray(ids, np.int32))


@pytest.mark.parametrize("name", ["ppo", "stage_one"])
def test_samples_are_rows_of_the_round_with_their_advantages(name):
  """Two of the first problems each; some batches have no advantages."""
  case = case_of(name)
  problems, rows, verdict = jax.tree.map(jnp.asarray, case.sampled)
  wide = rows.tokens.shape[1] + 3
  method = samples.showing(case.method, 4, {"": wide})
  batch, found = method.curate(
    jax.random.key(0, impl="threefry2x32"), case.state, problems, rows, verdict
  )
  measured, shown = samples.taken(found)
  assert samples.NAME not in measured and shown[""].rows.tokens.shape == (
    4, wide
  )
  at = samples.chosen(PROBLEMS, PROBLEMS * SAMPLES, 4)
  assert at.tolist() == [0, 1, SAMPLES, SAMPLES + 1]
  # A reward that is only logged may be unknown: JSON has null for it.
  logged = np.full_like(verdict.reward[at], np.nan)
  shown = {"": shown[""]._replace(
    verdict=shown[""].verdict._replace(parts={"logged": logged})
  )}
  stacked = jax.tree.map(lambda x: np.asarray(x)[None], shown)
  stage = stage_of()._replace(task=TASK)
  ((step, texts),) = samples.records(stage, stacked, 5, 3)
  assert step == 6 and not list(samples.records(stage, stacked, 6, 3))
  assert not list(samples.records(stage, {}, 5, 3))
  targets = batch.targets
  targets = targets.policy if isinstance(
    targets, ActorCriticTargets
  ) else targets
  for b, one in zip(at, texts):
    for k, turn in enumerate(one["turns"]):
      own = rows.turn[b] == k + 1
      assert turn["text"] == text_of(TASK, rows.tokens[b][own])
      assert turn["known"] == bool(verdict.known[b, k])
      assert turn["rewards"]["logged"] is None
      if turn["known"]:
        assert turn["rewards"]["reward"] == verdict.reward[b, k]
      flat = lambda x: np.asarray(x).reshape(-1, x.shape[-1])
      trained = own & (flat(batch.mask)[b] > 0)
      want = flat(targets.advantage)[b][trained]
      assert (turn["advantage"] is None) == (want.size == 0)
      if want.size:
        assert turn["advantage"] == pytest.approx(want.mean(), abs=1e-3)
  # A likelihood has none; and of other rows than these they would be wrong.
  own = jax.tree.map(lambda x: x[at], (rows, verdict))
  moved = batch._replace(tokens=jnp.roll(batch.tokens, 1, axis=0) + 1)
  weighted = batch._replace(targets=Weights(batch.mask))
  for other in (moved, weighted):
    assert np.all(np.isnan(samples.advantage_of(other, *own, at)))


def test_samples_change_at_most_rounding_and_no_step_comes_twice(tmp_path):
  """Calls of two steps, with and without; and what a resume leaves of them."""
  ends = {}
  for every in (0, 1):
    run = run_of(tmp_path / str(every), watch.Watch(samples_every=every,
                                                    samples=3))
    stage = stage_of(steps=4)._replace(task=TASK, steps_per_call=2)
    ends[every], _ = run_stage(run, stage, compile_ahead(run, stage))
  for x, y in zip(*map(jax.tree.leaves, ends.values())):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)
  assert not (tmp_path / "0" / "samples.jsonl").exists()
  found = records(tmp_path / "1", "samples")
  assert [x["step"] for x in found] == [n for n in (1, 2, 3, 4)
                                        for _ in range(3)]
  assert found[0]["turns"][0]["rewards"] == {"reward": 1.0}
  sink = services.open_all(tmp_path / "1", {}, {})
  services.join([sink]).samples(found[:3])
  sinks.drop_later(tmp_path / "1", "one", 2)
  assert [x["step"] for x in records(tmp_path / "1", "samples")] == [
    1, 1, 1, 2, 2, 2, 1, 1, 1
  ]
  page = write_report(tmp_path / "1").read_text()
  assert page.count("<summary>one, step ") == 2 and "one, step 2" in page
  sink.close()


SOUND = {
  "judge/reward_1": [0.4, 0.5] * 5, "judge/no_signal_1": [0.5] * 10,
  "generate/truncated_1": [0.1] * 10, "judge/malformed_1": [0.2] * 10,
  "judge/unknown_1": [0.0] * 10, "learn/entropy_1": [0.5] * 10,
  "generate/sampler_gap": [1e-6] * 10, "learn/clip_fraction": [0.1] * 10,
  "learn/gradient_norm": [1.0] * 10,
}
FLAT = {"judge/no_signal_1": [1.0] * 10}
SICK = {
  "rewards_equal": FLAT | {"judge/reward_1": [0.0] * 10},
  "no_signal": FLAT,
  "all_truncated": {"generate/truncated_2": [0.95] * 10},
  "nothing_parsed": {"judge/malformed_1": [1.0] * 10},
  "verifier_fails": {"judge/unknown_1": [0.6] * 10},
  "entropy_gone": {"learn/entropy_1": [0.001] * 10},
  "sampler_gap": {"generate/sampler_gap": [math.nan, *[0.05] * 9]},
  "clipped": {"learn/clip_fraction": [0.7] * 10},
  "gradient_zero": {"learn/gradient_norm": [0.0] * 10},
  "copies": {"judge/copied_2": [0.95, 1.0] * 5},
}


def test_every_alarm_sounds_alone_and_none_in_a_sound_run():
  assert not alarms.sounding(SOUND) and not alarms.sounding({})
  assert set(SICK) == {alarm.name for alarm in alarms.ALARMS}
  for name, numbers in SICK.items():
    window = SOUND | numbers
    assert [one.name for one in alarms.sounding(window)] == [name]
    for metric in numbers:  # One good step in between, or too few steps.
      short = {n: x[:9] for n, x in window.items()}
      assert not alarms.sounding(short)
      better = [*numbers[metric][:-1], SOUND.get(metric, [0.1])[0]]
      mended = alarms.sounding(window | {metric: better})
      assert name not in [one.name for one in mended]
  # A solved task is no alarm, nor what is not known.
  solved = SICK["entropy_gone"] | {"judge/reward_1": [0.98] * 10}
  assert not alarms.sounding(SOUND | solved)
  assert not alarms.sounding({"learn/gradient_norm": [math.nan] * 10})


def test_an_alarm_is_said_seldom_and_kept(caplog):
  window = SOUND | SICK["all_truncated"]
  stage = "said_seldom"
  for step in range(10, 260, 10):
    alarms.tell(stage, step, window)
  said = [r.getMessage() for r in caplog.records if stage in r.getMessage()]
  assert len(said) == 3, "at 10, 110 and 210"
  assert f"config.stage.{stage}.method.turns" in said[0]
  rows = [
    {"stage": stage, "step": i, "learn/gradient_norm": 0.0 if i < 15 else 1.0,
     "judge/reward_1": None}
    for i in range(1, 21)
  ]
  kept = alarms.history(rows)
  assert kept == {"gradient_zero": {"first": 10, "last": 14, "steps": 5}}
  lines = alarm_lines([{"name": stage, "alarms": kept}])
  assert "gradient_zero at 5 steps, from 10 to 14" in lines


def test_groups_by_hand():
  """Three problems of four samples; one verdict and one answer are missing."""
  reward = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1, 1, np.nan, 0])[:, None]
  known = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1.0])[:, None]
  final = np.array([7, 3, 3, -1, 1, 2, 3, 4, 5, 5, 6, 5])[:, None]
  want = {
    "judge/no_signal_1": (1, 3), "judge/pass_1": (2, 3),
    "judge/majority_1": (1, 3), "judge/distinct_1": (2 / 3 + 1 + 1 / 3, 3),
  }
  for put in (np.asarray, jnp.asarray):
    found = group_metrics(
      *map(put, (reward.astype(np.float32), known.astype(np.float32), final)), 4
    )
    assert found.keys() == want.keys()
    for name, (total, count) in want.items():
      assert float(found[name].total) == pytest.approx(total), name
      assert float(found[name].count) == count, name
  host = group_metrics(reward, known, final, 4)["judge/pass_1"]
  assert isinstance(host.total, np.floating), "it must not touch the device"
  assert group_metrics(reward, known, final, 1) == {}


def test_ratios_and_clips_by_hand():
  ratio = np.array([[0.5, 1.0, 1.3, 3.0, 9.0]], np.float32)
  old = np.full_like(ratio, -2.0)
  logprob = old + np.log(ratio)
  mask = np.array([[1, 1, 1, 1, 0.0]], np.float32)
  advantage = np.array([[-1, 1, 1, 0, 1.0]], np.float32)
  logprob, old, mask, advantage = map(
    jnp.asarray, (logprob, old, mask, advantage)
  )
  found = ratio_metrics(logprob, old, mask)
  kept = ratio[0, :4]
  shares = {
    "ratio_low": 1 / 4, "ratio_high": 2 / 4, "ratio_extreme": 1 / 4,
    "ratio": kept.mean(), "ratio_squared": (kept**2).mean(),
  }
  for name, want in shares.items():
    mean = found[f"learn/{name}"]
    assert float(mean.total / mean.count) == pytest.approx(want), name
  steps = {name: Mean(*(np.array([x]) for x in m)) for name, m in found.items()}
  (row,) = metrics.records(steps)
  size = kept.mean() ** 2 / (kept**2).mean()
  assert row["learn/effective_sample"] == pytest.approx(size)
  assert "learn/ratio_squared" not in row

  def objective(logprob):
    moved = importance_ratio(logprob, old)
    return clipped(moved, advantage, clip=0.2, clip_high=0.2)

  told = token_metrics(
    objective, logprob, advantage, mask, jnp.ones(mask.shape, jnp.int32)
  )
  # 0.5 with a negative and 1.3 with a positive advantage have gone their way.
  assert tuple(map(float, told["learn/clip_fraction"])) == (2.0, 3.0)
  assert tuple(map(float, told["learn/trained"])) == (3.0, 5.0)


def test_the_page_of_metrics_is_that_of_the_glossary():
  page = pathlib.Path(__file__).parent.parent / "docs" / "metrics.md"
  assert page.read_text() == glossary.page(), (
    "python -m sitrain.runtime.glossary > docs/metrics.md"
  )
  names = ["run/seconds", "run/host_seconds", watch.SECONDS]
  evaluated = brief.names(3, sampled=True, behaviours=True)
  names += [f"eval/{name}" for name in evaluated]
  assert not [name for name in names if not glossary.find(name)]
  assert glossary.find("judge/reward_2").name == "judge/reward_K"
  assert glossary.find("judge/format_2").name == "judge/NAME_K"
  assert glossary.find("judge/rewards") is None
