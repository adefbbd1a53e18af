"""Records that share images, directly or through others: they fall on the same side of a split."""

from collections.abc import Sequence


class ImageGroups:
    """Groups of images that stand together in some record, and how many records ask about each group."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}
        """Image → another one of its group; the smallest one has itself."""
        self._records: dict[int, int] = {}

    def add(self, sha256s: Sequence[str]) -> None:
        """One record's images."""
        if not sha256s:
            return
        roots = {self._root(_short(sha256)) for sha256 in sha256s}
        smallest = min(roots)
        for root in roots - {smallest}:
            self._above[root] = smallest
            self._records[smallest] = self._records.get(smallest, 0) + self._records.pop(root, 0)
        self._records[smallest] = self._records.get(smallest, 0) + 1

    def key(self, sha256s: Sequence[str]) -> str | None:
        """A name of the images' group; None where no other record has any of them."""
        if not sha256s:
            return None
        root = self._root(_short(sha256s[0]))
        return f"image {root:016x}" if self._records.get(root, 0) > 1 else None

    def _root(self, image: int) -> int:
        above = self._above.setdefault(image, image)
        while above != self._above[above]:
            self._above[image] = self._above[above]
            image, above = above, self._above[above]
        return above


def _short(sha256: str) -> int:
    return int(sha256[:16], 16)
