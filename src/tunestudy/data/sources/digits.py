"""scikit-learn's bundled handwritten digits as text: real scans that need no download.

A scan of 8×8 pixels with 17 grey values becomes 8 lines of `0`…`9`, `a`…`g`, then `=`; the answer is the digit.
Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tunestudy.config.data import DigitsDataset
from tunestudy.data.sources import Raw

GREY = np.array(list("0123456789abcdefg"))


def read(dataset: DigitsDataset, base_dir: Path) -> Iterator[Raw]:  # noqa: ARG001 - the data lie in scikit-learn
    """One prompt/completion record per scan; the scan's number is its id, whatever the rotation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, digit) in enumerate(zip(digits.images.astype(int), digits.target, strict=True)):
        turned = np.rot90(image, dataset.rotate // 90)
        lines = ["".join(GREY[row]) for row in turned]
        columns = {"id": str(number), "prompt": "\n".join(lines) + "\n=", "completion": str(digit)}
        yield Raw(f"digits:{number}", columns)


def identity(dataset: DigitsDataset, base_dir: Path) -> str:  # noqa: ARG001
    """Hash of the scans and the rotation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    content = hashlib.sha256(digits.images.tobytes() + digits.target.tobytes()).hexdigest()
    return f"digits {content} {dataset.rotate}"
