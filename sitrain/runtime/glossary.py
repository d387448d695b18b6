"""What each metric says: the source of docs/metrics.md.

python -m sitrain.runtime.glossary > docs/metrics.md

K in a name stands for the number of a turn, NAME for a word of the task or the
method. A test holds the metrics of runs against this list.
"""

import re
from typing import NamedTuple

from sitrain.evaluate import brief
from sitrain.runtime import alarms


class Entry(NamedTuple):
  """A metric of a step, or a family of them."""

  name: str
  formula: str
  unit: str
  healthy: str


SHARE, NAT, TOKENS, SECONDS = "share", "nat", "tokens", "s"
COUNT = "number a text"
RUN = (
  Entry("run/seconds", "time of the call / its steps", SECONDS, "even"),
  Entry("run/host_seconds", "time between calls / steps of a call: records, "
        "evaluations, checkpoints", SECONDS, "small beside run/seconds"),
  Entry("run/evaluation_seconds", "time of an evaluation while the stage "
        "trains", SECONDS, "a few % of the time between two"),
  Entry("run/tokens_per_second", "tokens that the policy wrote in the call, "
        "all turns / time of the call", "tokens/s", "even"),
)
GENERATE = (
  Entry("generate/length_K", "mean tokens of turn K, end included", TOKENS,
        "well below the limit; steady growth with steady reward is padding"),
  Entry("generate/length_NAME", "mean tokens of a draft, its verdict included, "
        "or of a refinement (`pdr`)", TOKENS, "well below the limits"),
  Entry("generate/sequential", "mean tokens that a refinement, with its "
        "workspace, and the longest draft of its round have (`pdr`)", TOKENS,
        "steady; what one waits for"),
  Entry("generate/total", "the same of a refinement and all drafts of its "
        "round", TOKENS, "steady; what an answer costs"),
  Entry("generate/truncated_K", "turns cut at their limit / turns", SHARE,
        "below 0.1"),
  Entry("generate/sampler_gap", "mean of abs(log pi - log pi of the sampler) "
        "before the first update", NAT,
        "< 1e-5 in float32, < 0.02 in bfloat16"),
  Entry("generate/delay_gap", "the same of steps that were sampled an update "
        "earlier (`delay`)", NAT, "small and steady"),
  Entry("generate/rounds", "rounds of sampling in the step (`rounds`)",
        "rounds", "below the limit"),
  Entry("generate/wanted", "problems with a signal / problems, after the last "
        "round", SHARE, "near 1; falling: the task is solved or too hard"),
)
JUDGE = (
  Entry("judge/reward_K", "mean reward of turn K, of known verdicts", "reward",
        "rises"),
  Entry("judge/NAME_K", "mean of a named reward, such as one of those added up",
        "reward", "rises, or stays where it is satisfied"),
  Entry("judge/malformed_K", "turns without an answer that parses / turns",
        SHARE, "falls towards 0"),
  Entry("judge/unknown_K", "verdicts that the verifier could not give / turns",
        SHARE, "0"),
  Entry("judge/ended_K", "rows that ended before turn K / rows", SHARE,
        "as the task has it"),
  Entry("judge/changed_K", "answers that differ from turn K - 1 / turns",
        SHARE, "neither 0 (copies) nor 1"),
  Entry("judge/corrected_K", "mean of (1 - r of turn K - 1) r of turn K", SHARE,
        "above spoiled_K"),
  Entry("judge/spoiled_K", "mean of r of turn K - 1 (1 - r of turn K)", SHARE,
        "towards 0"),
  Entry("judge/no_signal_K", "problems whose known rewards are all equal / "
        "problems", SHARE, "below 0.8; 1: nothing can be learned"),
  Entry("judge/pass_K", "problems with a fully rewarded sample / problems: "
        "pass@samples", SHARE, "above reward_K; what the policy can reach"),
  Entry("judge/majority_K", "problems whose most frequent answer is right / "
        "problems: maj@samples", SHARE, "above reward_K"),
  Entry("judge/distinct_K", "distinct answers / answers, of the samples of a "
        "problem", SHARE, "falls slowly; 1 / samples: all are copies"),
  Entry("judge/copied_K", "wrong attempts that turn K repeats token for token "
        "/ wrong attempts K - 1", SHARE, "below 0.5; 1: nothing is corrected"),
  Entry("judge/balance_K", "B-STaR's balance score: mean of min(u / n, 1) u / "
        "s over problems, u different right texts among s samples, n = min(8, "
        "samples)", SHARE, "rises; falls where right samples become copies"),
  Entry("judge/true_K", "verdicts of the policy that say rightly whether the "
        "attempt before is right / verdicts; where it judges itself, changes "
        "and copies of attempts are those against turn K - 2", SHARE, "rises"),
  Entry("judge/caught_K", "wrong attempts K - 1 that the policy does not accept"
        " / wrong attempts", SHARE, "rises; the recall of its verdicts"),
  Entry("judge/cleared_K", "right attempts K - 1 that it accepts / right "
        "attempts", SHARE, "rises; with caught_K at 1 and this at 0 it calls "
        "all wrong"),
  Entry("judge/too_long", "given turns that are longer than their limit / "
        "rows", SHARE, "0"),
  Entry("judge/draft", "mean reward of the attempts of drafts (`pdr`)",
        "reward", "rises, as reward_1 does"),
  Entry("judge/refined", "mean reward of refinements (`pdr`)", "reward",
        "rises, above draft"),
  Entry("judge/vote", "mean share of the votes for an answer", SHARE, "rises"),
)
CURATE = (
  Entry("curate/kept", "rows that are trained on / rows (`rise`: attempts)",
        SHARE, "between 0.05 and 0.95"),
  Entry("curate/pairs", "problems with a pair to train on / problems (`scl`: "
        "rows)", SHARE, "above 0.1"),
  Entry("curate/confident", "rows that are trained on whose first attempt is "
        "right / rows", SHARE, "above 0"),
  Entry("curate/corrections", "rows in which a given solution corrects an own "
        "answer / rows (`rac`)", SHARE, "near `share`"),
  Entry("curate/spliced", "solutions with a wrong step in them / rows (`s3c`)",
        SHARE, "above 0.1; 0: nothing to take back"),
  Entry("curate/restarts", "rows that go on from an old attempt / rows "
        "(`satori`)", SHARE, "0 until the buffer is full, then restarts / "
        "problems"),
  Entry("curate/changed", "trained tokens that are read as another / trained "
        "tokens (`scheduled_sampling`)", SHARE, "about `rate` times missed"),
  Entry("curate/missed", "trained tokens in whose place the policy would write "
        "another / trained tokens (`scheduled_sampling`)", SHARE, "falls"),
  Entry("curate/good", "rows that count as good / known rows", SHARE,
        "between 0.1 and 0.9"),
  Entry("curate/best", "mean reward of the best samples", "reward", "rises"),
  Entry("curate/overlong", "rows charged for their length / rows", SHARE,
        "below 0.1"),
  Entry("curate/replayed", "replayed rows / rows of the batch", SHARE,
        "steady"),
  Entry("curate/compared", "turns in the state of another turn that counts / "
        "turns that count (`gigpo`)", SHARE,
        "above 0.1; 0: rows alone are compared"),
  Entry("curate/agrees", "trained tokens whose step's verdict agrees with the "
        "advantage / those with an advantage (`spark`)", SHARE,
        "above 0.3; 0: steps and rewards contradict each other"),
  Entry("curate/arm_NAME", "chance of a difficulty to be drawn", SHARE,
        "moves from easy to hard"),
  Entry("curate/score_right", "mean score of the reward model, of right rows",
        "score", "above score_wrong"),
  Entry("curate/score_wrong", "the same of wrong rows", "score",
        "below score_right; else the reward model is exploited"),
)
LEARN = (
  Entry("learn/entropy_K", "mean entropy of the next token in turn K",
        "nat per token", "falls slowly and stays above 0.05"),
  Entry("learn/entropy", "mean entropy of the next token, all trained "
        "tokens", "nat per token", "near that of the data"),
  Entry("learn/kl_K", "KL to the reference of turn K, summed over its tokens",
        "nat per row", "rises with the reward, not without it"),
  Entry("learn/ratio", "mean importance ratio r = pi / mu of trained tokens",
        "ratio", "near 1"),
  Entry("learn/ratio_low", "tokens with r < 0.8 / tokens", SHARE, "below 0.1"),
  Entry("learn/ratio_high", "tokens with r > 1.25 / tokens", SHARE,
        "below 0.1"),
  Entry("learn/ratio_extreme", "tokens with r < 1/2 or r > 2 / tokens", SHARE,
        "below 0.01"),
  Entry("learn/effective_sample", "(mean r)^2 / mean r^2, over the trained "
        "tokens", SHARE, "above 0.9"),
  Entry("learn/clip_fraction", "tokens with an advantage that get no gradient "
        "of the surrogate / tokens with an advantage", SHARE, "below 0.2"),
  Entry("learn/trained", "sampled tokens with an advantage / sampled tokens of "
        "the batch; the rest was sampled in vain", SHARE, "above 0.3"),
  Entry("learn/nll", "mean negative log-likelihood of the trained tokens",
        "nat per token", "falls"),
  Entry("learn/value_error", "mean squared error of the critic", "reward^2",
        "falls below the variance of the rewards"),
  Entry("learn/preference", "mean loss of a pair or row", NAT, "falls"),
  Entry("learn/margin", "mean margin of the chosen row", NAT, "rises"),
  Entry("learn/preferred", "mean of sigmoid(margin)", SHARE, "rises from 0.5"),
  Entry("learn/nll_chosen", "negative log-likelihood of chosen rows",
        "nat per token", "does not rise; else raise `anchor`"),
  Entry("learn/nll_rejected", "the same of rejected rows", "nat per token",
        "rises slowly"),
  Entry("learn/gap_good", "mean of log pi - log reference, of good rows", NAT,
        "rises"),
  Entry("learn/gap_bad", "the same of bad rows", NAT, "falls"),
  Entry("learn/baseline", "what a gap is compared with", NAT, "near 0"),
  Entry("learn/gradient_norm", "norm of the gradient before clipping, summed "
        "over gradient steps / their number", "norm", "steady, not 0"),
  Entry("learn/parameter_norm", "norm of all trained parameters", "norm",
        "steady"),
)
_EVAL = {
  "accuracy_K": ("problems whose attempt K has a full reward / problems",
                 "rises"),
  "reward_K": ("mean reward of attempt K", "rises"),
  "truncated_K": ("attempts cut at their limit / attempts", "below 0.1"),
  "copied_K": ("wrong attempts that attempt K repeats but for a tenth, in "
               "insertions and deletions / wrong attempts K - 1",
               "below 0.5; 1: nothing is corrected"),
  "gain": ("accuracy of the last attempt - that of the first", "above 0"),
  "unknown": ("problems that the verifier could not judge / problems", "0"),
}
EVAL = tuple(
  Entry(f"{brief.PREFIX}{start}{name}", f"{formula}{how}", SHARE, healthy)
  for start, how in (("", "; greedy"), ("sampled_", "; sampled"))
  for name, (formula, healthy) in _EVAL.items()
)
BEHAVIOURS = {
  "verification": "checks and verdicts",
  "backtracking": "new starts, and verdicts after which the text goes on",
  "subgoals": "steps and aims that are named",
  "backward_chaining": "reasoning from the target",
}
HABITS = tuple(
  Entry(f"{brief.PREFIX}{start}{name}_K", f"{what} in attempt K{how}; phrases "
        "and role tokens of evaluate/behaviours.py", COUNT,
        "a habit that is rewarded grows, one that is rare is lost")
  for start, how in (("", "; greedy"), ("sampled_", "; sampled"))
  for name, what in BEHAVIOURS.items()
)
SAMPLES = (
  Entry("likeness", "mean of 1 - edit ratio of pairs of samples of a problem, "
        "insertions and deletions / characters of both", SHARE,
        "well below 1; a rise is mode collapse (SuperHF has METEOR for it)"),
  Entry("balance", "mean of min(u / n, 1) u / s: u different right texts among "
        "s samples, n = min(8, samples) (B-STaR)", SHARE, "rises"),
  Entry("pass@K-S", "problems of which K samples have S different right texts "
        "/ problems (B-STaR)", SHARE, "rises, then falls as samples become "
        "copies"),
  Entry("reward@K-S", "problems of which the first S of K samples are all "
        "right, ordered by how many samples have the same answer / problems "
        "(B-STaR, there by the score of a reward model); ties in every order, "
        "in the mean", SHARE, "rises; below maj@K: votes gather on wrong "
        "answers"),
  Entry("cl", "right first attempts whose later attempt is right / right first "
        "attempts (CL)", SHARE, "near 1"),
  Entry("cs", "wrong first attempts whose later attempt is right / wrong first "
        "attempts (CS)", SHARE, "rises"),
  Entry("cl_over_resample, cs_over_resample", "CL, CS less those of a second "
        "attempt that does not see the first: the first attempt of another "
        "sample of the problem, so it needs --samples=2 or more", SHARE,
        "above 0: it keeps what is right, it corrects what is wrong, more than "
        "another try would"),
  Entry("copied", "wrong attempts that the next one repeats but for a tenth / "
        "wrong attempts", SHARE, "below 0.5"),
  *(Entry(f"behaviours.{name}", f"{what} a text", COUNT, "as above")
    for name, what in BEHAVIOURS.items()),
  Entry("calibration.ece", "expected calibration error: mean abs(confidence - "
        "accuracy) over 10 bins of as many problems each. The confidence in "
        "the most frequent answer is its share of the samples; with --labels of"
        " sitrain evaluate it is P(True)", SHARE, "below 0.1"),
  Entry("calibration.rms", "the root of the mean of the squares of the same",
        SHARE, "below 0.1"),
  Entry("calibration.brier", "mean of (confidence - right)^2", SHARE,
        "below 0.25, which saying one half always has"),
  Entry("calibration.auroc", "chance that a right answer has more confidence "
        "than a wrong one, ties as one half", SHARE, "above 0.5; 1: a "
        "threshold tells right from wrong"),
  Entry("calibration.sure", "accuracy of answers with a confidence above 0.5",
        SHARE, "above the accuracy"),
  Entry("calibration.reliability", "confidence, accuracy and problems of each "
        "bin", SHARE, "confidence near accuracy in each"),
)
GROUPS = {
  "Evaluations while a stage trains (config.evaluate.every)": EVAL,
  "Behaviours in these (config.evaluate.every_behaviours=True)": HABITS,
  "Sampling": GENERATE, "Verdicts": JUDGE, "Selection": CURATE,
  "Updates": LEARN, "Time": RUN,
  "Monitors in the summary of `sitrain sample`": SAMPLES,
}

# What people call a metric: in the legends of the report. Without the number of
# the turn, which `label` adds; a name that is missing here reads as it is.
LABELS = {
  "run/seconds": "time of a step",
  "run/host_seconds": "time of the host between steps",
  "run/evaluation_seconds": "time of an evaluation",
  "generate/length_K": "tokens written",
  "generate/truncated_K": "cut at the limit",
  "generate/sampler_gap": "gap between sampler and trainer",
  "generate/delay_gap": "gap to the older sampler",
  "generate/wanted": "problems with a signal",
  "judge/malformed_K": "without a readable answer",
  "judge/unknown_K": "verdict unknown",
  "judge/ended_K": "ended before",
  "judge/changed_K": "changed the answer",
  "judge/corrected_K": "corrected: wrong to right",
  "judge/spoiled_K": "spoiled: right to wrong",
  "judge/no_signal_K": "problems without a signal",
  "judge/pass_K": "any sample right",
  "judge/majority_K": "the majority right",
  "judge/distinct_K": "distinct answers",
  "judge/too_long": "given turns that were too long",
  "judge/vote": "votes for the answer",
  "curate/kept": "rows kept",
  "curate/pairs": "problems with a pair",
  "curate/confident": "rows kept, right at first",
  "curate/corrections": "own answers corrected by solutions",
  "curate/spliced": "solutions with a wrong step",
  "curate/restarts": "rows from an old attempt",
  "curate/changed": "tokens read as others",
  "curate/missed": "tokens that the policy would not write",
  "curate/good": "rows that count as good",
  "curate/best": "reward of the best sample",
  "curate/agrees": "steps that agree with the advantage",
  "curate/arm_NAME": "chance of NAME",
  "curate/score_right": "score of right rows",
  "curate/score_wrong": "score of wrong rows",
  "learn/entropy": "entropy of all trained tokens",
  "learn/kl_K": "KL to the reference",
  "learn/ratio": "importance ratio",
  "learn/ratio_low": "ratio below 0.8",
  "learn/ratio_high": "ratio above 1.25",
  "learn/ratio_extreme": "ratio below 1/2 or above 2",
  "learn/effective_sample": "effective sample size",
  "learn/clip_fraction": "clipped tokens",
  "learn/trained": "sampled tokens that are trained on",
  "learn/nll": "negative log-likelihood",
  "learn/value_error": "squared error of the critic",
  "learn/preference": "preference loss",
  "learn/nll_chosen": "negative log-likelihood, chosen rows",
  "learn/nll_rejected": "negative log-likelihood, rejected rows",
  "learn/gap_good": "log-ratio to the reference, good rows",
  "learn/gap_bad": "log-ratio to the reference, bad rows",
  f"{brief.PREFIX}unknown": "verdict unknown",
  f"{brief.PREFIX}truncated_K": "cut at the limit",
}
_SAMPLED = f"{brief.PREFIX}sampled_"


def label(name: str) -> str:
  """A metric in words: "KL to the reference, attempt 2" of learn/kl_2.

  K and NAME may stand in the name, as they do in those of entries.
  """
  if name.startswith(_SAMPLED):
    own = label(name.replace(_SAMPLED, brief.PREFIX, 1))
    return f"{own} (sampled)"
  entry = find(re.sub("_K$", "_1", name))
  family = entry.name if entry else name
  stem, number = re.fullmatch(r"(.*?)(?:_(\d+|K))?", name).groups()
  if not family.endswith("_K"):
    stem, number = name, None
  word = stem.partition("/")[2] or stem
  text = LABELS.get(family, word).replace("NAME", word.removeprefix("arm_"))
  attempt = f", attempt {number}" if number and number != "K" else ""
  return text.replace("_", " ") + attempt


def find(name: str) -> Entry | None:
  """The entry of a metric, or None: that of its own name comes first."""
  entries = [entry for group in GROUPS.values() for entry in group]
  # NAME stands for any word, so it is asked last.
  for entry in sorted(entries, key=lambda entry: "NAME" in entry.name):
    pattern = re.escape(entry.name).replace("NAME", r"\w+")
    if re.fullmatch(re.sub(r"(?<=_)K$", r"\\d+", pattern), name):
      return entry
  return None


def page() -> str:
  """docs/metrics.md."""
  lines = [
    "# Metrics", "",
    "Made by `python -m sitrain.runtime.glossary` from"
    " `sitrain/runtime/glossary.py`. One record a step in `metrics.jsonl`, one"
    " event a step in TensorBoard, and in the services of `config.run`. K is"
    " the number of a turn, NAME a word of the task or method. Means are over"
    " the step's rows, of known verdicts alone; a metric that counts nothing"
    " in a step is null.", "",
  ]
  for title, entries in GROUPS.items():
    lines += [f"## {title}", "", "| metric | what it is | unit | healthy |",
              "|---|---|---|---|"]
    lines += [
      f"| `{one.name}` | {one.formula} | {one.unit} | {one.healthy} |"
      for one in entries
    ]
    lines.append("")
  lines += [
    "## Alarms", "",
    f"Looked at after every call, on the last {alarms.SPAN} steps; logged as a"
    f" warning at most once in {alarms.EVERY} steps, counted in `summary.json`"
    " and shown in the report.", "",
    "| alarm | what it means | what to change |", "|---|---|---|",
  ]
  lines += [
    f"| `{one.name}` | {one.means} | {one.fix.format(stage='NAME')} |"
    for one in alarms.ALARMS
  ]
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  print(page(), end="")
