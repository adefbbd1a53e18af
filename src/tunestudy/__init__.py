"""tunestudy: one study file in, one defensible table out.

Two planes live in this package. The control plane (`cli`, `study`, `launch`, `report`, …) never imports
torch; the worker plane (`worker`, `train`, `data`, …) is what runs under torchrun. They meet only in the
run directory (`records`) and in the settings (`config`). Start reading at `study/plan.py`.
"""

__version__ = "0.1.0"

NUMERICS_EPOCH = 2
"""Part of every fingerprint; raised by one whenever a change of tunestudy changes a result."""
