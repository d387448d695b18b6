"""Mistake tuning: right and wrong samples, each behind its tag.

sitrain train --config=mistake_tuning --workdir=/tmp/sitrain_mistakes

Strings under constraints, asked with `<ok>`; two rounds, each from the one
before. `--config.stage.mistake_tuning.method.bad='<ok>'` imitates all samples
alike. Three seeds: 51, 49 and 43 % right; right samples alone 61, 60 and 55
(that wrong ones help is not seen here), all samples without tags 36, 35 and 31.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then two rounds."""
  config = common.base_config()
  common.add_tagged(config, "mistake_tuning")
  return common.finish(config, argument)
