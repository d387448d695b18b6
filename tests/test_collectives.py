"""What devices tell each other in compiled programs, and when.

Beside every program stands a naive one, in which each check has to fail.
"""

import importlib.util
import json
import subprocess
import sys

import jax.numpy as jnp
import mains
import pytest

from sitrain.models import axes

ROWS, VOCABULARY = 16, 80  # of a group, see eight_devices_collectives.py
# Without them libtpu looks for the chips of this machine.
NO_CHIPS = {
  "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def found_by(backend, cache, **environment):
  """What a process says of the programs that it compiles for 8 devices."""
  script = mains.ROOT / "tests" / "eight_devices_collectives.py"
  done = subprocess.run(
    [sys.executable, str(script), backend], capture_output=True, text=True,
    timeout=900, env=mains.environment(cache, **environment), check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def cpu(cache):
  flags = mains.ONE_THREAD + " --xla_force_host_platform_device_count=8"
  return found_by("cpu", cache, XLA_FLAGS=flags)


@pytest.fixture(scope="module")
def tpu(cache):
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("needs libtpu: pip install 'sitrain[tpu]'")
  return found_by("tpu", cache, **NO_CHIPS)


def logits(program, tokens):
  """Gathers inside of loops of as much as half of the logits of a column."""
  return [
    c for c in program["collectives"]
    if c[0] == "all-gather" and c[3] and c[2] >= tokens * VOCABULARY // 2
  ]


def crossing(program):
  """Collectives inside of loops that join groups of different rows."""
  return [c for c in program["collectives"] if c[3] and c[4]]


def kinds(program, kind):
  """(dtype, elements) of the collectives of a kind that join groups."""
  found = program["collectives"]
  return [tuple(c[1:3]) for c in found if c[0] == kind and c[4]]


def test_logits_are_not_gathered(cpu):
  assert logits(cpu["decode"], ROWS) == []
  assert logits(cpu["naive decode"], ROWS)


def test_no_weight_is_gathered_while_decoding(cpu):
  assert crossing(cpu["decode"]) == []
  assert kinds(cpu["decode"], "all-gather")
  assert crossing(cpu["left decode"]), "this check sees nothing"


def test_adapters_and_their_base_play_as_on_one_device(cpu):
  fields = ["tokens", "turn", "logprob", "path", "problem", "parent"]
  assert cpu["same"] == fields


def test_chunks_of_the_update_need_no_other_group(cpu):
  """Neither the table of the logits nor its gradient crosses in the loop."""
  assert crossing(cpu["update"]) == []
  assert crossing(cpu["naive update"])
  assert kinds(cpu["update"], "reduce-scatter")
  assert kinds(cpu["naive update"], "reduce-scatter") == []


def test_embedding_rows_are_exchanged_and_not_gathered(cpu):
  assert cpu["update"]["complaints"] == 0
  assert cpu["naive look-up"]["complaints"] > 0
  assert kinds(cpu["update"], "all-to-all")


def test_hidden_states_are_not_reduced_over_groups(cpu):
  """Weights are gathered for them, and they stay with their rows."""
  states = ROWS * 15 * 32
  most = lambda name: max(n for _, n in kinds(cpu[name], "all-reduce"))
  assert most("update") < states <= most("naive update")


def test_experts_take_the_rows_of_their_own_group(cpu):
  """Of other groups a group gets weights, and gives their gradients back."""
  found, router, matrix = cpu["experts"], 32 * 4, 4 * 32 * 64 // 2
  assert found["apart"] < 1e-5
  assert crossing(found["own"]) == []
  assert crossing(found["naive"])
  gathered = {size for _, size in kinds(found["own"], "all-gather")}
  assert gathered == {router, matrix}
  assert len(kinds(found["own"], "reduce-scatter")) >= 3


def test_no_device_repeats_work_of_the_update(cpu):
  one = cpu["update of one"]["flops"]
  assert 0.1 < cpu["update"]["flops"] / one <= 1.2 / 8


def test_rows_on_whole_models_need_sums_of_gradients_alone(cpu):
  found = {c[0] for c in cpu["update by rows"]["collectives"]}
  assert found == {"all-reduce"}


def test_a_split_residual_stream_needs_less_memory(cpu):
  found = cpu["residual"]
  assert found["split"] < 0.95 * found["whole"]
  assert found["apart"] < 1e-5


def test_another_residual_stream_is_refused():
  with pytest.raises(ValueError, match="config.model.residual='halved': not"):
    axes.between_layers(jnp.zeros((2, 2)), "halved")


@pytest.mark.nightly
def test_a_tpu_gathers_weights_for_decoding_in_bfloat16(tpu):
  gathered = kinds(tpu["decode"], "all-gather")
  assert gathered and {dtype for dtype, _ in gathered} == {"bf16"}
  assert crossing(tpu["decode"]) == []
  assert "f32" in {d for d, _ in kinds(tpu["naive decode"], "all-gather")}


@pytest.mark.nightly
def test_a_tpu_scatters_the_sums_of_gradients(tpu):
  """Each device keeps its part over `fsdp` of what is added up."""
  scattered = kinds(tpu["update"], "reduce-scatter")
  assert len(scattered) >= 2  # of the layer, and of the table
  assert {dtype for dtype, _ in kinds(tpu["update"], "all-gather")} <= {
    "bf16", "s32"
  }
  table = VOCABULARY * 16 * 512 // 2
  # The compiler lets gathers of layers run on beside the loop over chunks.
  assert all(size < table // 2 for _, _, size, *_ in crossing(tpu["update"]))
