"""Figures are files: no window is opened, whatever backend the environment asks for, as Jupyter and
Colab do. This runs before a figure imports matplotlib."""

import os

os.environ["MPLBACKEND"] = "Agg"  # a name that it does not know would end the import
import matplotlib  # noqa: E402

matplotlib.use("Agg")  # where it was imported already
