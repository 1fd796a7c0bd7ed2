"""Types of the formulas: numbers or arrays that broadcast, and tables of arrays."""

from __future__ import annotations

import numpy as np

Numbers = float | np.ndarray  # one number, or an array; operands broadcast against each other
Index = int | np.ndarray  # an index into a table of names, or an array of them
Columns = dict[str, np.ndarray]  # a table: an array for each name
