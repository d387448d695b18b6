"""The data that flows through the six verbs, and the letters of its shapes.

Shape letters, the same in the whole package: P problems, B episodes (rows),
K turns, T tokens, S prompt slots, A answer fields, L solution tokens, F reply
tokens, V vocabulary. `*B` is `B`, or `B G` for alternatives of one problem.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

PAD, GIVEN = -1, 0  # values of `Episodes.turn`; PAD also fills token arrays
ROOT, OFFLINE = -1, -2  # values of `Episodes.parent`

Key = Array  # a threefry key, typed or raw
Params = Any  # a pytree of arrays


class Problems(NamedTuple):
  """What is posed. Token arrays hold PAD where there is no token."""

  prompt: Int[Array, "P S"]  # left-padded
  answer: Int[Array, "P A"]  # what the verifier compares with
  solution: Int[Array, "P L"]  # given turns, each with its end, right-padded


class Episodes(NamedTuple):
  """Rows of text: prompt, turns of the policy and given replies.

  `turn` is padding mask, loss mask and turn index in one array: PAD, GIVEN
  (prompt and replies), or the number (from 1) of the turn that wrote the token.
  """

  tokens: Int[Array, "B T"]
  turn: Int[Array, "B T"]
  logprob: Float[Array, "B T"]  # under the sampler; 0 where turn < 1
  path: Int[Array, "B T"]  # 0 trunk, k branch k; see models/decoder.py
  problem: Int[Array, " B"]  # the row of Problems that it answers
  parent: Int[Array, " B"]  # the row it continues; ROOT: none; OFFLINE: its
  #                           first attempt is not the policy's own


class Reply(NamedTuple):
  """What a row reads when it has ended a turn, if that is not its last.

  Where `done`, the episode ends, and `tokens` are not read. Where not, and
  there are no tokens, the next turn begins at once.
  """

  tokens: Int[Array, "B F"]  # PAD behind them
  done: Bool[Array, " B"]


class Verdict(NamedTuple):
  """The judge's rewards, one per turn of every row.

  `known` is 0 where the verifier itself failed and where the turn was never
  written: such a turn is masked and counts in no baseline. `parts` holds the
  named rewards that `reward` adds up, where there is more than one, and others
  that a method may read, as verdicts on steps. A part that `reward` does not
  depend on, as it has weight 0, is NaN where it is not known.
  """

  reward: Float[Array, "B K"]
  known: Float[Array, "B K"]
  parts: dict[str, Float[Array, "B K"]] = {}


class TokenScores(NamedTuple):
  """Index t always speaks about token t."""

  logprob: Float[Array, "*B T"]
  entropy: Float[Array, "*B T"]


class PolicyTargets(NamedTuple):
  """Targets of policy-gradient losses."""

  advantage: Float[Array, "*B T"]
  kl_weight: Float[Array, "*B T"]  # beta of the token's turn
  old_logprob: Float[Array, "*B T"]  # of the policy before the first update
  sampler_logprob: Float[Array, "*B T"]  # inf: of an earlier round's policy
  reference_logprob: Float[Array, "*B T"]  # 0 where the loss needs none


class ValueTargets(NamedTuple):
  """Targets of value losses."""

  returns: Float[Array, "*B T"]
  old_value: Float[Array, "*B T"]


class ActorCriticTargets(NamedTuple):
  """Targets of both, in the order that `objectives.join_losses` takes."""

  policy: PolicyTargets
  value: ValueTargets


class ImitatedTargets(NamedTuple):
  """Targets of a policy gradient with the likelihood of some tokens beside it.
  """

  policy: PolicyTargets
  imitated: Float[Array, "*B T"]  # 1 where the likelihood is trained as well


class PreferenceTargets(NamedTuple):
  """Targets of pairwise losses; the chosen row of a pair comes first."""

  reference_logprob: Float[Array, "*B T"]  # 0 where the loss needs none
  label: Float[Array, " B"]  # probability that the first row is the better one


class UnpairedTargets(NamedTuple):
  """Targets of losses on single rows that are good or bad."""

  reference_logprob: Float[Array, "*B T"]
  good: Float[Array, " B"]  # 1 or 0
  baseline: Float[Array, " B"]  # what a gap is compared with, the same in all
  weight: Float[Array, " B"]  # that of good or bad rows among all


class Weights(NamedTuple):
  """Targets of weighted likelihood losses."""

  weight: Float[Array, "*B T"]


class Batch(NamedTuple):
  """What the loss sees. `inputs` differs from `tokens` only where corrupted."""

  inputs: Int[Array, "*B T"]
  tokens: Int[Array, "*B T"]
  turn: Int[Array, "*B T"]
  path: Int[Array, "*B T"]
  mask: Float[Array, "*B T"]  # 1 where the token is trained on
  targets: Any  # a NamedTuple of the loss family


class Mean(NamedTuple):
  """A mean kept as sum and count, so that parts add up exactly."""

  total: Float[Array, "..."]
  # Nobody counts the items of a pair, as tuple.count does.
  count: Float[Array, "..."]  # pyright: ignore[reportIncompatibleMethodOverride]


Metrics = dict[str, Mean]


class TrainState(NamedTuple):
  """Everything that a run carries from one iteration to the next.

  Arrays only, and no array stands in two fields: donation refuses that.
  `models.roles.params_of` gives the parameters of a role, trained or held.
  """

  step: Int[Array, ""]  # iterations over all stages
  frozen: dict[str, Any]  # what no gradient reaches and no checkpoint holds
  params: dict[str, Params]  # by role, what is trained
  opt_state: Any
  held: dict[str, Params]  # by role, what is kept fixed; in the compute dtype
  memory: Any  # what the method remembers: arrays of fixed capacity, or ()
  posed: Any = ()  # rounds that the stage has posed; (): one an iteration


class Tokenizer(NamedTuple):
  """Text to token ids and back."""

  encode: Callable[[str], list[int]]
  decode: Callable[[Any], str]  # skips PAD
  size: int


class Chat(NamedTuple):
  """A tokenizer and the form of its dialogues, as token ids."""

  tokenizer: Tokenizer
  eos: tuple[int, ...]  # ids that end a turn of the policy
  ask: Callable[[str], list[int]]  # the first message, up to the first turn
  again: Callable[[str], list[int]]  # a later one: from end to next turn
  dialogue: Any = ()  # messages {role, content} up to the first turn -> ids


@runtime_checkable
class Policy(Protocol):
  """What rollouts and scores ask of a model; `models.decoder.Decoder` has it.

  `apply({"params": params}, tokens [B Q], attend, cache, column)` returns
  hidden states [B Q D] and the cache, and with method="logits" it maps hidden
  states to logits [... V]; both are explained in models/decoder.py. Of a linen
  module `apply` is there already. models/foreign.py makes one of a function.
  """

  vocabulary: int
  dtype: Any  # of the computation
  heads: int  # scores of attention that a row takes memory for
  attention: str  # "chunked", where rows of a batch share no prompts
  residual: str  # "whole"
  apply: Callable[..., Any]
  make_cache: Callable[[int, int], tuple]  # (rows, columns): arrays [B N T H]
  for_decoding: Callable[[Params], Params]  # once before a loop of decoding
  logit_tables: Callable[[Params], dict[str, Array]]  # what "logits" reads


class Task(NamedTuple):
  """Problems and how to check an answer.

  Functions of a task on the device are pure jnp and may be jitted. Where
  `on_host` says so, `verify` and `final` run on the host, on NumPy arrays. The
  problems of a `table` are its rows; else `problems` draws them.
  """

  problems: Callable[[Key, int], Problems]  # (key, n)
  verify: Callable[..., Verdict]  # (answer [B A], episodes, turns)
  reply: Callable[..., Reply]  # (answer [B A], episodes, turn [B])
  final: Callable[..., Array]  # (episodes, turns) -> [B K] ids of the answers,
  #                              equal for equal ones, -1 where there is none
  level: Callable[[Problems], Array]  # -> [P] index into `levels`
  levels: tuple[str, ...]  # names of the difficulties
  eos: tuple[int, ...]  # tokens that end a turn
  turn_length: int  # tokens that a turn needs, end included: the longest right
  #                   attempt where problems are drawn, half of the given turns
  #                   where they are rows
  tokenizer: Tokenizer
  table: Any  # Problems, one a row of the data set, or ()
  on_host: bool
  texts: Any = ()  # tasks.text.Texts of the rows of the table, or ()
  rewards: tuple[str, ...] = ()  # names of Verdict.parts
  accepts: Any = ()  # (episodes, turns) -> [B K] whether a turn says that the
  #                    attempt before it is right, or (). With it turns are an
  #                    attempt, a verdict of the policy on it, an attempt, ...


Rows = Any  # Episodes, or {name: Episodes} of a method with several kinds
Verdicts = Any  # Verdict, or {name: Verdict} with the names of the rows


def no_memory(key: Key) -> tuple[()]:
  """The initial memory of methods without one."""
  del key
  return ()


class Method(NamedTuple):
  """The six verbs, and the initial memory.

  `key` is one key; `keys` has one per problem. Each kind of rows has the same
  number of rows for every problem, and rows of a problem are contiguous. So row
  b of a kind that continues each row of another n times belongs to row b // n;
  `parent` counts rows of the own kind only, and is renumbered with them.
  """

  pose: Callable[..., Problems]  # (key, state)
  generate: Callable[..., Rows]  # (keys [P], state, problems)
  judge: Callable[..., tuple[Verdicts, Metrics]]  # (key, state, problems, rows)
  refresh: Callable[..., TrainState]  # (state, problems, rows, verdicts)
  curate: Callable[..., tuple[Batch, Metrics]]
  #                                   (key, state, problems, rows, verdicts)
  loss: Callable[..., tuple[dict[str, Mean], Metrics]]  # (params, state, batch)
  memory: Callable[[Key], Any] = no_memory
  wanted: Any = ()  # (problems, rows, verdicts) -> [P], those that teach the
  #                   method something; (): all do, and none is posed again


class Stage(NamedTuple):
  """One stretch of training: a method, for how long, and from where."""

  name: str
  method: Method
  optimizer: Any
  steps: int  # iterations at the most
  steps_per_call: int  # iterations in one fused call; divides `steps`
  parts: dict[str, int]  # waves, minibatches, epochs, microbatches, buckets
  fused: bool  # False: the judge runs on the host
  until: Callable[[dict[str, Any]], bool]  # window of metrics -> stop early
  window: int  # how many steps of metrics `until` and `best` see
  start: str  # "init", or "<stage>/best" or "<stage>/last"
  held: dict[str, str]  # role -> where its parameters come from, as `start`
  restart: bool  # whether the optimizer starts anew
  best: str  # the metric whose highest mean over the window is the best
  trained: tuple[str, ...] = ("policy",)  # roles that a gradient reaches
  task: Any = ()  # the Task that it poses
  frozen: Any = ()  # the table of its task, see methods.verbs.frozen_of, or
  #                   a function that reads one which a stage before it wrote
  delay: int = 0  # updates the sampler is behind, from a call's second step on
  rounds: int = 1  # times that problems are posed until all are `wanted`
  writes: bool = False  # True: rows go to a table, and nothing is trained
  dtype: Any = "float32"  # of held roles, and of what is gathered for decoding


class Progress(NamedTuple):
  """Where a run stands; JSON beside the arrays."""

  stage: str
  step: int  # iterations done in this stage
  window: dict[str, list[float]]  # recent metrics that `until` looks at
  best: float
  rows: int  # rows of the table that the stage has written
  done: bool
  first: int = 0  # TrainState.step at which the stage began
