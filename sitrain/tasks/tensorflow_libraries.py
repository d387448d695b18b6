"""tensorflow-text, loaded where it is needed.

It is an extra, `pip install 'sitrain[tensorflow]'`: it brings TensorFlow along
(2 GB) and takes seconds to import. With TensorFlow installed, EPATH_USE_TF=0
must be set before `etils` is imported, as the mains do, or gs:// goes through
TensorFlow.
"""

from typing import Any


def load() -> tuple[Any, Any]:
  """(tensorflow, tensorflow_text), with no accelerator taken.

  Raises ValueError that names the extra where they are not installed.
  """
  try:
    import tensorflow
    import tensorflow_text
  except ImportError as error:
    raise ValueError(
      f"this needs tensorflow-text ({error}): pip install 'sitrain[tensorflow]'"
    ) from error
  try:
    # Else TensorFlow would take the accelerator, or the memory that JAX needs.
    tensorflow.config.set_visible_devices([], "GPU")
    tensorflow.config.set_visible_devices([], "TPU")
  except RuntimeError:
    pass  # TensorFlow has been initialised already, with other settings.
  return tensorflow, tensorflow_text
