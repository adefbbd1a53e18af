"""scikit-learn's bundled handwritten digits, as text or as images: real scans that need no download.

A scan of 8×8 pixels with 17 grey values becomes 8 lines of `0`…`9`, `a`…`g`, then `=`; the answer is the digit.
Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
"""

import gzip
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import DigitsDataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.sources import Folders, Raw

GREY = np.array(list("0123456789abcdefg"))
FILE = "datasets/data/digits.csv.gz"
"""Within scikit-learn: 64 grey values and the digit a line."""


def read(dataset: DigitsDataset, folders: Folders) -> Iterator[Raw]:  # noqa: ARG001 - the data lie in scikit-learn
    """One prompt/completion record per scan; the scan's number is its id, whatever the rotation."""
    for number, scan in enumerate(_scans()):
        pixels = scan[:64].reshape(8, 8)
        turned = np.rot90(pixels[:, 1:-1] if dataset.trim else pixels, dataset.rotate // 90)
        asked: dict[str, Any]
        if dataset.render == "image":
            asked = {"image": {"bytes": _as_png(turned)}, "prompt": dataset.question}
        else:
            asked = {"prompt": "\n".join("".join(GREY[row]) for row in turned) + "\n="}
        yield Raw(f"digits:{number}", {"id": str(number), **asked, "completion": str(scan[64])})


def identity(dataset: DigitsDataset, folders: Folders) -> str:  # noqa: ARG001
    """Hash of the scans, and what is done to them."""
    trimmed = " trimmed" if dataset.trim else ""
    rendered = f" image {dataset.question}" if dataset.render == "image" else ""
    return f"digits {hashlib.sha256(_scans().tobytes()).hexdigest()} {dataset.rotate}{trimmed}{rendered}"


def _as_png(scan: NDArray[np.int64]) -> bytes:
    """Ink is white on black, as it was scanned: grey values 0 to 16 over the range of a byte."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((scan * 255 // 16).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@lru_cache
def _scans() -> NDArray[np.int64]:
    """(1797, 65): read from scikit-learn's own file, because importing scikit-learn takes longer than training."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        cure = "pip install 'tunestudy[train]'"
        raise StudyError(at("datasets"), f"the digits come with scikit-learn: {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
    with gzip.open(Path(package.origin).parent / FILE, "rt") as file:
        return np.loadtxt(file, delimiter=",").astype(np.int64)
