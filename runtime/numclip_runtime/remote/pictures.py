"""Addresses among pictures: what a predictor takes in their place."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

from numclip_runtime.images.decode import ImageLike
from numclip_runtime.remote.addresses import scheme_of

if TYPE_CHECKING:
    from numclip_runtime.remote.prefetch import Fetched, Prefetcher

_T = TypeVar("_T")


def fetched_picture(image: ImageLike) -> ImageLike | Fetched:
    """Return an image, and for the address of one its object, which a thread fetches.

    Raises:
        MissingDependencyError: if a package is missing.
    """
    if not _is_address(image):
        return image
    (one,) = with_objects((image,))
    return one


def with_objects(images: Iterable[_T]) -> Generator[_T | Fetched, None, None]:
    """Yield images; the object of an address is fetched by a thread from then on.

    Nothing is taken ahead: as many objects are under way as the caller has taken and not read.

    Raises:
        MissingDependencyError: if a package is missing.
    """
    prefetcher: Prefetcher | None = None
    try:
        for image in images:
            if not _is_address(image):
                yield image
                continue
            from numclip_runtime.remote.fetch import object_or_error
            from numclip_runtime.remote.prefetch import Prefetcher

            prefetcher = prefetcher or Prefetcher()
            assert isinstance(image, str)
            yield prefetcher.fetch(object_or_error(image))
        if prefetcher is not None:
            prefetcher.finish()
    except BaseException:  # also of a caller who has stopped
        if prefetcher is not None:
            prefetcher.close()
        raise


def _is_address(image: object) -> bool:
    return isinstance(image, str) and "://" in image and scheme_of(image) is not None
