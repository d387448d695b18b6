import importlib.util
import json
import math
import os

import jax
import jax.numpy as jnp
import pytest
from mains import QUICK

from configs import quickstart, score_math
from sitrain.models import decoder
from sitrain.models.huggingface import families
from sitrain.runtime import build, machine
from sitrain.runtime.batches import Counts
from sitrain.runtime.options import ConfigError
from sitrain.runtime.plan import chips as plan_chips
from sitrain.runtime.plan import cost as plan_cost
from sitrain.runtime.plan import hlo as plan_hlo
from sitrain.runtime.plan import models as plan_models
from sitrain.runtime.plan import programs as plan_programs
from sitrain.runtime.plan import refusals as plan_refusals
from sitrain.runtime.plan import stages as plan_stages

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu, TPU's compiler, is not installed: sitrain[tpu]",
)


@pytest.mark.parametrize("name, hint", [
  ("v5e:16x61", "'v5e:16x16'"), ("v5e:3x3", "'v5e"), ("v5x:2x4", "'v5e:2x4'"),
  ("v5p:2x4", "'v5p:2x4x4'"), ("lokal", "or local"), ("", "or local"),
])
def test_unknown_topology_names_the_closest(name, hint):
  with pytest.raises(ConfigError) as error:
    plan_chips.check_topology(name)
  text = str(error.value)
  assert f"--topology={name} is no slice" in text and hint in text
  assert "\n" not in text


@pytest.mark.parametrize("name, chips", [
  ("v5e:16x16", 256), ("v5p:2x4x4", 32), ("v6e:8x8", 64), ("v4:2x2x1", 4),
])
def test_topologies_have_their_chips(name, chips):
  assert plan_chips.check_topology(name)[1] == chips


def test_without_its_compiler_a_tpu_is_refused(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"pip install 'sitrain\[tpu\]'"):
    plan_chips.target_of("v5e:2x4")


# What their authors say they have.
@pytest.mark.parametrize("name, parameters", [
  ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
  ("qwen3-0.6b", 596_049_920), ("qwen3-8b", 8_190_735_360),
  ("meta-llama/Meta-Llama-3-8B", None), ("llama-3-8b", 8_030_261_248),
  ("google/gemma-2-27b-it", 27_227_128_320),
  ("allenai/OLMo-2-1124-7B-Instruct", 7_298_617_344),
  ("HuggingFaceTB/SmolLM3-3B", 3_075_098_624),
  ("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552),
  ("microsoft/phi-4", 14_659_507_200),
  ("Qwen/Qwen3-30B-A3B", 30_532_122_624),
])
def test_known_models_have_their_parameters(name, parameters):
  if parameters is None:
    with pytest.raises(ConfigError, match="did you mean 'llama-3-8b'"):
      plan_models.shapes_of(name)
    return
  model = decoder.Decoder(
    **families.decoder_fields(plan_models.shapes_of(name))
  )
  shapes = jax.eval_shape(
    lambda: decoder.init(model, jax.random.key(0))
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters
  active = 3_353_032_704 if "30B-A3B" in name else parameters
  assert decoder.parameters.active(model, shapes) == active


def test_a_folder_with_a_config_json_will_do(tmp_path):
  given = plan_models.SHAPES["qwen3-0.6b"] | {"num_hidden_layers": 3}
  (tmp_path / "config.json").write_text(json.dumps(given))
  assert plan_models.shapes_of(str(tmp_path)) == given


def test_a_text_task_is_stood_in_for_by_its_shapes(tmp_path):
  config = build.plain(score_math.get_config())
  config = plan_models.with_shapes(config, "qwen3-8b", tmp_path)
  task = plan_models.task_of(config, tmp_path)
  assert task.table.prompt.shape == (plan_models.ROWS, 512)
  assert task.tokenizer.size == 151936 and task.on_host
  model = machine.suited_to(build.model_from(config, task), "tpu")
  assert model.vocabulary == 151936 and model.dtype == jnp.bfloat16
  assert model.scan and model.remat == "full"


STEPS, WIDTH = 7, 48


def looped(x, weights, count):
  """Products in a counted loop, in a nested one, and in one by value."""

  def inner(x, w):
    return jnp.tanh(jax.lax.fori_loop(0, 3, lambda _, y: y @ w, x)), ()

  x, _ = jax.lax.scan(inner, x, weights)
  return jax.lax.while_loop(
    lambda s: (s[0] < 100) & (jnp.sum(s[1]) > 0),
    lambda s: (s[0] + count, s[1] @ weights[0]), (0, x),
  )


@pytest.fixture(scope="module")
def looped_program():
  x = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
  weights = jax.ShapeDtypeStruct((STEPS, WIDTH, WIDTH), jnp.float32)
  count = jax.ShapeDtypeStruct((), jnp.int32)
  made = jax.jit(looped).lower(x, weights, count).compile()
  return made, plan_hlo.parse(made.as_text())


def test_loops_count_as_often_as_they_run(looped_program):
  made, program = looped_program
  found = sorted(
    plan_hlo.trips(program, part, one)
    for part, within in program.parts.items() for one in within.values()
    if one.opcode == "while"
  )
  assert found == [plan_hlo.DYNAMIC, 3, STEPS]
  product = 2 * WIDTH**3
  cost = plan_cost.cost_of(
    plan_cost.works(program, 20), plan_chips._TPUS["v5e"]
  )
  assert cost.flops == (3 * STEPS + 20) * product
  # The compiler counts every body once.
  assert made.cost_analysis()["flops"] < 4 * product


def test_a_slice_of_stacked_weights_is_read_and_not_all(looped_program):
  _, program = looped_program
  done = plan_cost.works(program, 1)
  layer = 4 * WIDTH**2
  outer = [w for w in done if w.loop == str(STEPS)]
  # Weights are cut out of the stack, written, and results as well.
  assert 0 < sum(w.bytes for w in outer) < 12 * layer


def test_flops_without_loops_are_the_compilers():
  def attention(q, k, v):
    scores = jnp.einsum("bqnh,bknh->bnqk", q, k)
    return jnp.einsum("bnqk,bknh->bqnh", jax.nn.softmax(scores), v)

  shape = jax.ShapeDtypeStruct((2, 64, 4, 32), jnp.float32)
  made = jax.jit(jax.grad(lambda *a: jnp.sum(attention(*a) ** 2), (0, 1, 2)))
  made = made.lower(shape, shape, shape).compile()
  done = plan_cost.works(plan_hlo.parse(made.as_text()), 1)
  mine = sum(w.flops * w.times for w in done)
  product = 2 * 2 * 4 * 64 * 64 * 32
  assert mine == 6 * product
  assert mine <= made.cost_analysis()["flops"] < 1.3 * mine


HLO = """HloModule made_up

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: bf16[8,16]) -> f32[8,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %kernel = bf16[64,4,2,2]{3,2,1,0} constant({...})
  %whole = (bf16[8,16]{1,0}, bf16[8,64]{1,0:T(8,128)S(1)}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={1}
  %done = bf16[8,64]{1,0:T(8,128)S(1)} all-gather-done(%whole)
  %sums = bf16[8,16]{1,0} all-reduce(%x), replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add
  %some = bf16[2,16]{1,0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %moved = bf16[8,16]{1,0} collective-permute(%x), source_target_pairs={{0,1}}
  %batch = f32[8,4,13,13]{2,3,1,0} convolution(%left, %right), window={size=8x4 stride=7x3 lhs_dilate=8x4}, dim_labels=01bf_01oi->01bf
  %left = bf16[8,4,13,16]{3,2,1,0} bitcast(%x)
  %right = bf16[8,4,13,16]{3,2,1,0} bitcast(%x)
  %gemm = (bf16[8,32]{1,0}, s8[4194304]{0}) custom-call(%x, %kernel), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  ROOT %out = f32[8,16]{1,0} convert(%x)
}
"""  # noqa: E501


def test_collectives_and_products_as_a_tpu_writes_them():
  program = plan_hlo.parse(HLO)
  done = {w.name: w for w in plan_cost.works(program, 1)}
  sent = {
    w.collective.kind: w.collective.sent for w in done.values()
    if w.collective.kind
  }
  given = 2 * 8 * 16
  assert sent == {
    "all-gather": 3 * given, "all-reduce": 2 * given / 2,
    "reduce-scatter": given * 3 / 4, "collective-permute": given,
  }
  # A batch of 8 x 4 products [13, 16] x [16, 13].
  assert done["batch"].flops == 2 * 8 * 4 * 13 * 13 * 16
  assert done["gemm"].flops == 2 * 8 * 32 * 16
  assert done["whole"].bytes == given  # What is gathered stays in the core.


REFUSAL = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of \
memory in memory space hbm. Used 41.20G of 15.75G hbm. Exceeded hbm capacity \
by 25.45G.

Total hbm usage >= 41.70G:
    reserved        530.00M

  Largest program allocations in hbm:

  1. Size: 7.32G
     Operator: op_name="jit(learn)/transpose" source_file="a.py" source_line=3
     Shape: f32[64,2138,14336]{2,1,0:T(8,128)}
     Unpadded size: 7.32G
     ==========================

  2. Size: 512.50M
     Shape: bf16[28,1536,8960]{2,1,0}
     ==========================
"""


def target(memory):
  chip = plan_chips._TPUS["v5e"]._replace(memory=memory)
  return plan_chips.Target("local", chip, jax.devices()[:1])


def test_a_refusal_of_the_compiler_names_buffers():
  row = plan_refusals.refused(REFUSAL, target(16 * 2**30))
  assert not row["fits"] and row["total"] == 41.2 * 2**30
  assert row["reason"] == "needs 41.2 GiB of 15.75 GiB"
  first, second = row["largest"]
  assert first["bytes"] == 7.32 * 2**30 and "[64,2138,14336]" in first["shape"]
  assert first["source"] == "jit(learn)/transpose" and second["source"] == ""


def test_the_largest_batch_is_on_a_line():
  row = lambda total: [{"total": float(total)}]
  most = plan_programs.largest_batch(
    row(300), row(500), (8, 16), 4, target(1000)
  )
  assert most == 36
  most = plan_programs.largest_batch(row(300), row(500), (8, 16), 4, target(90))
  assert most == 0


def test_meshes_and_their_rank():
  found = list(plan_stages.meshes(8, 8))
  assert {"data": 8, "fsdp": 1, "tensor": 1} in found and len(found) == 10
  assert all(math.prod(mesh.values()) == 8 for mesh in found)
  made = lambda fits, seconds, rows: {
    "fits": fits, "step_seconds": seconds, "rows": rows
  }
  worst, best, good = (
    made(False, 0.1, 8), made(True, 2.0, 32), made(True, 1.0, 8)
  )
  assert plan_stages.rank([worst, good, best]) == [best, good, worst]


def test_candidates_hold_the_state_and_divide(tmp_path):
  config = short_text()[0]  # The state is that of long texts.
  config["task"]["limit"] = 64
  config = plan_models.with_shapes(config, "qwen2.5-0.5b", tmp_path)
  # Layers are traced one by one, and most of the state are its tables.
  path = tmp_path / "config.json"
  known = json.loads(path.read_text())
  path.write_text(json.dumps(known | {"num_hidden_layers": 1}))
  found = plan_stages.candidates(config, tmp_path, target(2**34), "stage2")
  assert [c["mesh"] for c in found] == [
    {"data": 1, "fsdp": 1, "tensor": 1}
  ] * 2
  assert not plan_stages.candidates(
    config, tmp_path, target(2**30), "stage2"
  )


def plan_on_cores(ask, output, *arguments):
  flags = [
    *QUICK, f"--output={output}", "--config.mesh.data=2",
    "--config.mesh.fsdp=2",
  ]
  # With few optimizations, as they do not change which collectives there are.
  done = ask(
    *flags, *arguments, module="sitrain.plan",
    XLA_FLAGS="--xla_force_host_platform_device_count=4",
  )
  assert "Traceback" not in done.err, done.err[-2000:]
  return done, json.loads(output.read_text()) if output.exists() else {}


FIELDS = {
  "arguments", "temporaries", "outputs", "held", "total", "fits", "flops",
  "bytes", "sent", "collectives", "compile_seconds", "seconds", "largest",
}


def test_what_does_not_fit_ends_with_one_and_is_named(ask, tmp_path):
  # So many rows that no machine has the memory: nothing of them is ever made.
  done, found = plan_on_cores(
    ask, tmp_path / "plan.json", "--nolargest", "--stage=stage2",
    f"--config.stage.stage2.method.problems={2**22}",
  )
  assert done.code == 1 and "stage2/loop does not fit local" in done.out
  [stage] = found["stages"]
  [row] = stage["programs"]
  assert FIELDS <= row.keys() and not row["fits"] and not found["fits"]
  assert row["total"] > os.sysconf("SC_PHYS_PAGES") * 1024
  assert row["largest"][0]["bytes"] > 2**26
  assert stage["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
  kinds = {one["kind"] for one in row["collectives"]}
  # Weights are gathered over fsdp, gradients summed over data.
  assert "all-gather" in kinds and kinds & {"all-reduce", "reduce-scatter"}
  assert row["flops"] > 0 and row["step_seconds"] > 0


@pytest.mark.nightly
def test_search_ranks_what_it_compiled(ask, tmp_path):
  done, found = plan_on_cores(
    ask, tmp_path / "plan.json", "--search", "--tries=2", "--stage=base"
  )
  assert done.code == 0, done.err[-2000:]
  ranked = found["search"]["base"]
  assert len(ranked) == 2 and all(one["fits"] for one in ranked)
  per_row = [one["step_seconds"] / one["rows"] for one in ranked]
  assert per_row == sorted(per_row) and found["stages"] == ranked[:1]
  assert "the best first" in done.out


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("micro", plan_stages.MICRO)
def test_search_keeps_rows_that_share_a_prompt_together(share, micro):
  config = build.plain(quickstart.get_config())
  config["stage"]["stage2"]["method"]["share_prompts"] = share
  counts = Counts(problems=64, rows=512, units=64 if share else 512, columns=11)
  for mesh in plan_stages.meshes(8, 4):
    changed = plan_stages._changed(config, "stage2", counts, mesh, micro)
    made = changed["stage"]["stage2"]
    groups = mesh["data"] * mesh["fsdp"]
    units, odd = divmod(
      made["method"]["problems"] * (1 if share else 8),
      groups * made["microbatches"],
    )
    assert odd == 0 and units * (8 if share else 1) <= max(micro, 8 * share)


def test_bad_input_is_one_line(ask, tmp_path):
  done, _ = plan_on_cores(ask, tmp_path / "no", "--topology=v5e:2x5")
  assert done.code == 2 and done.err.count("error:") == 1
  assert "did you mean 'v5e:2x4'?" in done.err


def quick_updates():
  """Stage II of the tiny maze, its update as a program of its own."""
  config = build.plain(quickstart.get_config("quick"))
  config["stage"]["stage2"]["fused"] = False
  return config, ""


def short_text():
  """Stage II of a model of 1.5 B parameters, at short lengths."""
  config = build.plain(score_math.get_config())
  config["task"]["prompt_length"] = 128
  config["stage"]["stage2"]["method"]["turns"] = (96, 96)
  return config, "qwen2.5-1.5b"


@pytest.mark.nightly
@needs_libtpu
@pytest.mark.parametrize("make", [quick_updates, short_text])
def test_updates_compile_for_a_tpu(make, tmp_path):
  place, (config, model) = plan_chips.target_of("v5e:2x4"), make()
  config["mesh"] = {"data": 1, "fsdp": 8, "tensor": 1}
  config = plan_models.with_shapes(config, model, tmp_path)
  found = plan_stages.plan_stage(
    config, tmp_path, place, "stage2", only=["learn"], report=lambda text: None
  )
  [row] = found["programs"]
  assert row["fits"] and found["chips"] == 8
  # Every chip holds an eighth of what adds up to the state.
  each = found["state_bytes"]
  assert row["arguments"] >= each * 0.99 and row["held"] < each * 0.01
  kinds = {one["kind"] for one in row["collectives"]}
  assert "all-gather" in kinds and kinds & {"all-reduce", "reduce-scatter"}
  if model:
    assert each == pytest.approx(14 * 1_543_714_304 / 8, rel=0.05)
    # Forward, forward again and backward, and the reference's forward.
    tokens = found["rows"] * (128 + found["steps"])
    assert 9 < row["flops"] * 8 / (1.54e9 * tokens) < 12
