"""What the side-by-side benchmarks stand on: workers, rounds and ratios."""

import importlib
import json
import sys
import textwrap

import mains
import numpy as np
import pytest
import qwen

from benchmarks import (
  alternate,
  before_after,
  decode,
  profiled,
  rounds,
  step,
  traffic,
  turns,
  walk,
)
from benchmarks.peers import protocol
from sitrain.configs import quickstart, word_problems
from sitrain.methods import reinforce
from sitrain.runtime import build, policy
from sitrain.runtime import stage as stages
from sitrain.runtime.options import ConfigError
from sitrain.tasks import text

HEAD = """
import json, sys, time
for line in sys.stdin:
  message = json.loads(line)
"""
TOY = {"layers": 1, "width": 8, "heads": 2, "kv_heads": 2, "head_size": 4,
       "mlp": 8, "vocabulary": 16,
  "tied": False, "dtype": "float32",
}


def fake(body):
  """A worker that does `body` with every message."""
  return [sys.executable, "-c", HEAD + textwrap.indent(body, "  ")]


def worker(body):
  return rounds.workers({"fake": fake(body)})


def test_a_worker_answers_and_ends():
  body = "print(json.dumps({'seconds': 2.0, 'got': message}), flush=True)"
  with worker(body) as started:
    answer = rounds.request(started["fake"], 60, action="run", case=3)
    assert answer == {"seconds": 2.0, "got": {"action": "run", "case": 3}}
    process = started["fake"].process
    assert process.poll() is None
  assert process.poll() is not None


@pytest.mark.parametrize("body, seconds, words", [
  ("sys.exit('no memory')", 60, "ended with status 1.*no memory"),
  ("print('hello', flush=True)", 60, "answered 'hello'"),
  ("print('[1, 2]', flush=True)", 60, "answered"),
  ("print('{\"error\": \"too big\"}', flush=True)", 60, "too big"),
  ("time.sleep(600)", 0.2, "no answer in 0.2 s"),
])
def test_a_worker_that_fails_is_named(body, seconds, words):
  with worker(body) as started:
    with pytest.raises(rounds.WorkerError, match=f"(?s)^fake: .*{words}"):
      rounds.request(started["fake"], seconds, action="run")
  assert started["fake"].process.poll() is not None


def test_contestants_that_fill_the_memory_take_turns(capsys):
  answer = """
    message["settings"] = str(message.get("case"))
    print(json.dumps(message | {{"cpu": {}, "seconds": 1.0, "peak": 2**30}}),
          flush=True)
  """
  racing = {
    name: (fake(textwrap.dedent(answer).format(cpu)), cpu)
    for name, cpu in (("ours", 2), ("other", 3))
  }
  found = alternate.measure(racing, 2, 3, 1)
  assert [len(one["runs"]) for one in found["other"]] == [3, 3]
  said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
  assert said == ["ours", "other", "other", "ours"]
  result = alternate.report(found)
  assert result["other"]["cpu_ratio"]["median"] == 1.5
  assert result["other"]["seconds_ratio"]["median"] == 1.0


def test_a_request_to_a_dead_worker_is_an_error():
  with worker("sys.exit(3)") as started:
    for _ in range(2):
      with pytest.raises(rounds.WorkerError, match="status 3"):
        rounds.request(started["fake"], 60, action="run")


def test_serve_separates_prints_and_reports_errors():
  code = textwrap.dedent("""
    from benchmarks.peers import protocol
    def prepare(case):
      print("noise of a library")
      return (lambda: {"half": 1 / case}), {"parameters": 1}
    protocol.serve(prepare)
  """)
  command = {"served": [sys.executable, "-c", code]}
  with rounds.workers(command) as started:
    request = lambda **message: rounds.request(started["served"], 60, **message)
    assert request(action="prepare", case=2) == {"parameters": 1}
    answer = request(action="run")
    assert answer["half"] == 0.5 and answer["seconds"] >= 0
    request(action="prepare", case=0)
    with pytest.raises(rounds.WorkerError, match="ZeroDivisionError"):
      request(action="run")
    assert request(action="prepare", case=2) == {"parameters": 1}


def test_rounds_interleave_in_alternating_order():
  order = []

  def contestant(name, seconds):
    return lambda: order.append(name) or seconds

  two = {"a": contestant("a", 1.0), "b": contestant("b", 2.0)}
  assert rounds.interleaved(two, 3) == {"a": [1.0] * 3, "b": [2.0] * 3}
  assert order == ["a", "b", "b", "a", "a", "b"]
  lines = []
  rounds.interleaved(two, 2, first=3, report=lines.append)
  assert lines == ["round 4: a 1.00 s, b 2.00 s", "round 5: a 1.00 s, b 2.00 s"]


def test_checkouts_are_compared_by_the_processor_time_of_pairs(tmp_path):
  folders = {}
  for name, took in (("before", 3.0), ("after", 2.0)):
    folders[name] = tmp_path / name
    folders[name].mkdir()
    (folders[name] / "own.py").write_text(f"took = {took}")
  script = (
    "import json, own, sys\n"
    "for line in sys.stdin:\n"
    "  print(json.dumps({'processor': own.took, 'seconds': 5.0}), flush=True)\n"
  )
  workers = {
    name: rounds.start(
      name, [sys.executable, "-c", script], folder, PYTHONPATH=str(folder)
    )
    for name, folder in folders.items()
  }
  try:
    answers = before_after.one_pair(workers, {}, 3)
  finally:
    for worker in workers.values():
      rounds.stop(worker)
  found = before_after.ratios([answers, answers])
  assert found["processor"]["median"] == 1.5 and found["pairs"] == [1.5, 1.5]
  assert found["clock"]["median"] == 1.0
  assert found["milliseconds"] == {"before": 3000.0, "after": 2000.0}


def test_medians_leave_the_first_call_out():
  ticks = iter([9.0, 1.0, 2.0, 7.0])
  assert rounds.medians({"a": lambda: next(ticks)}, 3) == {"a": 2.0}


def test_compare_pairs_by_round():
  found = rounds.compare([2.0, 30.0, 4.0, 8.0, 9.0], [1.0, 10.0, 2.0, 2.0, 9.0])
  assert found["median"] == 2.0  # of 2, 3, 2, 4, 1
  assert (found["least"], found["most"]) == (1.0, 4.0)
  assert 1.0 <= found["low"] < 2.0 < found["high"] <= 4.0
  same = rounds.compare([3.0] * 4, [2.0] * 4)
  assert same["low"] == same["median"] == same["high"] == 1.5


def test_the_interval_narrows_with_the_spread_of_the_ratio():
  wide = rounds.compare([1.0, 2, 3, 4, 5] * 3, [1.0] * 15)
  narrow = rounds.compare([2.9, 3, 3, 3, 3.1] * 3, [1.0] * 15)
  assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]


def test_race_refuses_models_of_different_sizes():
  body = "print(json.dumps({'seconds': 1.0, 'parameters': %d}), flush=True)"
  commands = {"a": fake(body % 5), "b": fake(body % 6)}
  with rounds.workers(commands) as started:
    with pytest.raises(ValueError, match="different sizes.*'a': 5, 'b': 6"):
      rounds.race(started, {}, 1)


def test_race_compares_with_the_first():
  body = "print(json.dumps({'seconds': %f, 'parameters': 5}), flush=True)"
  commands = {"a": fake(body % 2), "b": fake(body % 3)}
  with rounds.workers(commands) as started:
    found = rounds.race(started, {}, 2)
  assert found["medians"] == {"a": 2.0, "b": 3.0}
  assert list(found["ratios"]) == ["b"]
  assert found["ratios"]["b"]["median"] == 1.5


def test_step_by_step_takes_one_step_a_call():
  done = []

  def loop(gate):
    for number in range(3):
      gate()
      done.append(number)

  step = protocol.step_by_step(loop)
  assert done == []
  step()
  assert done == [0]
  step()
  assert done == [0, 1]
  with pytest.raises(RuntimeError, match="ended"):
    step()


def test_names_of_cases():
  case = decode.parse("4x8x16")
  assert (case["batch"], case["prompt"], case["new"]) == (4, 8, 16)
  assert decode.parse("qwen3-0.6b:4x8x16")["model"]["vocabulary"] == 151936
  for name in ("4x8", "4x8xa", "llama:4x8x16"):
    with pytest.raises(ValueError, match="ROWSxPROMPTxNEW"):
      decode.parse(name)
  assert step.parse("32")["new"] == 32
  for name in ("0", "-1", "x"):
    with pytest.raises(ValueError, match="number of new tokens"):
      step.parse(name)


def test_peers_without_an_interpreter_are_left_out():
  commands = rounds.modules("decode", {"one": "", "two": "python9"})
  assert list(commands) == ["sitrain", "two"]
  assert commands["two"] == ["python9", "-m", "benchmarks.peers.two_decode"]


@pytest.mark.nightly
def test_workers_of_sitrain():
  cases = {
    "decode": {"model": TOY, "batch": 2, "prompt": 4, "new": 3},
    "step": {"model": TOY, "problems": 2, "samples": 2, "prompt": 4, "new": 3,
             "beta": 0.04},
  }
  for kind, case in cases.items():
    with rounds.workers(rounds.modules(kind, {})) as started:
      request = lambda s=started, **m: rounds.request(s["sitrain"], 300, **m)
      facts = request(action="prepare", case=case)
      # 2 tables, projections and mlp, 3 norms.
      assert facts["parameters"] == 2 * 128 + 4 * 64 + 3 * 64 + 3 * 8
      answers = [request(action="run") for _ in range(2)]
    assert all(answer["seconds"] > 0 for answer in answers)
    if kind == "decode":
      assert [answer["tokens"] for answer in answers] == [6, 6]
    else:
      assert all(0 <= answer["reward"] <= 1 for answer in answers)


@pytest.mark.nightly
@pytest.mark.parametrize("name, mean, samples", [
  ("cursor", 4, 1), ("cache", 0, 1), ("group", 0, 2),
])
def test_both_ways_of_two_turns_write_the_same(name, mean, samples):
  case = {"model": TOY, "batch": 4, "samples": samples, "prompt": 5, "new": 6,
          "mean": mean}
  ways = turns.prepare(name, case).values()
  ours, other = (np.asarray(way()) for way in ways)
  # What each way continues is the same; of several samples of a prompt, other
  # draws continue it, as many.
  same = 5 + 6 + turns.REPLY if samples > 1 else None
  assert (ours[:, :same] == other[:, :same]).all()
  assert ours.shape == other.shape and ((ours == -1) == (other == -1)).all()
  written = (ours != -1).sum(axis=1) - 5 - turns.REPLY
  assert (len(set(written)) > 1) == bool(mean)


def test_turns_print_a_line_for_each_compilation_and_round(monkeypatch, capsys):
  ways = {"one_cursor": lambda: 1.0, "loop_a_turn": lambda: 2.0}
  monkeypatch.setattr(turns, "prepare", lambda name, case: ways)
  assert turns.SMALL.keys() == turns.CASES.keys()
  found = turns.measure(2, {"cursor": turns.SMALL["cursor"]})
  lines = capsys.readouterr().out.splitlines()
  for line, words in zip(lines, (
    "one_cursor: compiled", "loop_a_turn: compiled", "round 1: one_cursor 0",
    "round 2: one_cursor 0", "times as fast as loop_a_turn",
  ), strict=True):
    assert line.startswith("cursor: ") and words in line
  assert found["cursor"]["columns"] == 64 + 2 * 64 + turns.REPLY


@pytest.mark.nightly
def test_traffic_is_at_least_what_must_be_read():
  case = {"model": TOY, "batch": 4, "prompt": 8, "new": 8}
  found = traffic.traffic(case)
  assert found["cache_lengths"][-1] == 8 + 8 - 1
  per_column = 2 * 4 * 2 * 4  # keys and values, bytes, heads, size
  assert found["filled"] == 4 * per_column * (8 + 3.5)
  assert found["accessed"] > found["weights"] + found["filled"]
  small = TOY | {"tied": True, "dtype": "bfloat16"}
  half = traffic.traffic(case | {"model": small})
  assert half["filled"] == found["filled"] / 2
  # The tied table is read for the last product, an untied one row by row.
  assert half["weights"] * 2 == found["weights"] - 4 * 4 * TOY["width"]


def test_a_profile_of_what_is_no_compiled_step_is_refused(
  tmp_path, monkeypatch
):
  """A text run: nothing is trained, and nothing is left where one stands."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ConfigError, match="holds no config.json"):
    profiled.read_config("run", "stage2")
  (tmp_path / "run").mkdir()
  monkeypatch.setattr(policy.checkpoint, "steps", lambda folder: [2])

  def read(module, name="stage2"):
    config = build.plain(module.get_config("quick"))
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return profiled.read_config("run", name)

  with pytest.raises(ConfigError, match="stage2 is staged: its verifier runs"):
    read(word_problems)
  with pytest.raises(ConfigError, match="--stage=stage3 is not in the run"):
    read(quickstart, "stage3")
  with pytest.raises(ConfigError, match="--stage=base holds no reference"):
    read(quickstart, "base")
  assert read(quickstart)["stage"]["stage2"]
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_walk_names_all_that_runs_from_a_verdict_to_its_gradient():
  """At most 12 hops and 14 files, and none can be left out or hidden."""
  run, stage = walk.stage_two()
  calls = walk.calls_of(run, stage)
  assert walk.faults(calls) == []
  assert len(walk.HOPS) <= 12 and len(walk.files()) <= 14
  loss = "losses/policy_gradient.py", "policy_gradient"
  left = tuple(one for one in walk.HOPS if one != loss)
  assert walk.faults(calls, hops=left) == [
    "sitrain/losses/policy_gradient.py: policy_gradient runs: name it in HOPS,"
    " or in LEAVES"
  ]
  batch = "curate/policy.py", "policy_batch"
  left = tuple(one for one in walk.HOPS if one != batch)
  found = walk.faults(calls, hops=left, leaves=(*walk.LEAVES, batch))
  assert "policy_batch is no leaf: it calls sitrain/curate/advantage.py" in (
    found[0]
  )
  assert "policy_batch is no leaf: it has" in found[-1]
  gone = "train.py", "shuffle"
  assert walk.faults(calls, leaves=(*walk.LEAVES, gone))[0] == (
    "sitrain/train.py: shuffle does not run: take it out"
  )


def test_the_walk_begins_with_the_files_that_the_main_opens():
  made = walk.stack_at(reinforce, "build", walk.stage_two)
  ahead = lambda: stages.compile_ahead(*walk.stage_two()).result()
  parts = walk.stack_at(stages, "make_parts", ahead)
  assert walk.faults_before(made, parts) == []
  assert walk.faults_before(made, [*parts, ("runtime/host.py", "x")]) == [
    "sitrain/runtime/host.py is opened: name it in BEFORE"
  ]
  assert walk.faults_before(parts) == [
    f"sitrain/{file} is not opened: take it out of BEFORE"
    for file in ("methods/score.py", "runtime/build.py")
  ]


def test_a_peers_answers_are_judged_as_own_ones_and_compared():
  compared = mains.imported("benchmarks.real_answers")
  rows = compared.played([[5, 6], [7]], [[8, 2], [9, 9, 9]])
  assert rows.tokens.tolist() == [[5, 6, 8, 2], [7, 9, 9, 9]]
  texts, ended = text.turn_tokens(rows, 1, eos=(2,))
  assert [list(x) for x in texts] == [[8], [9, 9, 9]] and ended == [True, False]

  record = lambda right, said: {"right": [right], "texts": [said]}
  found = compared.compare(compared.Compared(
    [record(1, "a"), record(1, "b"), record(0, "c"), record(0, "d")],
    [record(1, "a"), record(0, "x"), record(0, "y"), record(0, "d")],
  ), draws=200)
  assert found["pass@1"] == {
    "sitrain": 0.5, "transformers": 0.25, "difference": 0.25
  }
  assert found["equal_texts"] == 2 and found["equal_verdicts"] == 3
  assert (found["only_sitrain"], found["only_transformers"]) == (1, 0)
  low, high = found["intervals"]["difference"]
  assert 0 <= low < 0.25 < high <= 1
  assert json.loads(json.dumps(found)) == found


def test_a_peer_goes_on_where_a_draft_is_not_what_it_would_write(tmp_path):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  answers = importlib.import_module("benchmarks.peers.transformers_answers")
  folder = qwen.folder(tmp_path, ["one two three", "four, five and six"])
  case = {
    "folder": str(folder), "dtype": "float32", "new": 9, "eos": [2],
    "prompts": [], "messages": [],
  }
  run, _ = answers.prepare(case)
  prompts = [[5, 9, 31, 40], [7, 77], [100, 3, 4]]
  alone = run(prompts)["written"]
  assert [len(row) for row in alone] == [9, 9, 9]
  texts = transformers.AutoTokenizer.from_pretrained(folder).batch_decode(alone)
  broken = [text[:3] + "five" for text in texts]
  for drafts in (texts, broken, ["", "one", texts[0] * 9]):
    assert run(prompts, drafts)["written"] == alone
