"""The grid: settings, seeds, effort.

Settings are chosen for each arm on TUNING seeds, by the mean of `CHOSEN_BY`;
the reported runs use them on other seeds and other problems. Variants of SCoRe
take SCoRe's.
"""

TUNING = (0, 1, 2)
SEEDS = tuple(range(200, 210))
MANY, FEWER = 10, 5  # how many of them the main arms take, and the others

# Learning rate of the policy, and beta1, the KL of every trained turn.
SETTINGS = {
  "a": {"rate": 1e-3, "beta": 0.1},
  "b": {"rate": 1e-3, "beta": 0.02},
  "c": {"rate": 5e-4, "beta": 0.05},
}
# Imitation has no KL: its settings are rates alone.
RATES = {"a": {"rate": 1e-3}, "b": {"rate": 3e-4}}

STEPS = 500  # gradient steps of every arm, of PROBLEMS * SAMPLES episodes
PROBLEMS, SAMPLES = 32, 8

CHOSEN_BY = {"single_turn": "accuracy_1"}  # of the others: accuracy_2
