"""What object stores publish of themselves, and what a cache of many clips asks of them: plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

GB = 1e9
PREFIXES = 256  # folders of a cache: the first two digits of a clip's sha256
NAMES_OF_A_RECORD = 4096  # of a record of use
NAMES_OF_A_LISTING = 1000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/ListingKeysUsingAPIs.html
_REQUESTS_OF_A_RECORD = (2, 1)  # it looks whether its first and last entry are there, and is put


@dataclass(frozen=True)
class Published:
    """Limits and list prices of an object store, in US dollars, the first step of each price.

    Attributes
    ----------
    name
        What the tables call it.
    writes_per_second, reads_per_second
        Requests that are served from the beginning: of a bucket, or of one of the parts that it is split into.
    minutes_to_double
        How long a bucket takes to serve twice as many, where it grows as a whole; 0.0 where it is split by prefixes.
    put_1000, get_1000
        Price of a thousand writes or listings, and of a thousand reads. Deleting costs nothing.
    gb_month
        Price of a gigabyte for a month.
    gb_out
        Price of a gigabyte that leaves the region; inside it is free.
    names_of_a_deletion
        How many objects a request deletes.
    sources
        Where that is said, as looked up in November 2026.
    """

    name: str
    writes_per_second: float
    reads_per_second: float
    minutes_to_double: float
    put_1000: float
    get_1000: float
    gb_month: float
    gb_out: float
    names_of_a_deletion: int
    sources: tuple[str, ...]


S3 = Published(
    "S3 Standard, us-east-1",
    writes_per_second=3500,
    reads_per_second=5500,
    minutes_to_double=0.0,
    put_1000=0.005,
    get_1000=0.0004,
    gb_month=0.023,
    gb_out=0.09,
    names_of_a_deletion=1000,
    sources=(
        "https://repost.aws/knowledge-center/http-5xx-errors-s3",  # per partitioned prefix
        "https://aws.amazon.com/premiumsupport/knowledge-center/s3-object-key-naming-pattern/",  # 30 to 60 minutes
        # AWS' own page (https://aws.amazon.com/s3/pricing/) has its figures in a script; these repeat them.
        "https://devnotes.tech/understanding-aws-s3-pricing-a-complete-cost-breakdown-with-examples",
        "https://frugal.co/blog/the-frugal-approach-to-aws-s3-storage-costs",
    ),
)
GCS = Published(
    "GCS Standard, us-east1",
    writes_per_second=1000,
    reads_per_second=5000,
    minutes_to_double=20.0,
    put_1000=0.005,
    get_1000=0.0004,
    gb_month=0.020,
    gb_out=0.12,
    names_of_a_deletion=1,
    sources=(
        "https://cloud.google.com/storage/docs/request-rate",
        "https://cloud.google.com/storage/pricing-examples",
    ),
)
PUBLISHED = (S3, GCS)

# Of an object in S3 Standard-IA and the classes below it: https://aws.amazon.com/s3/pricing/
SMALLEST_BILLED = 128 * 1024


@dataclass(frozen=True)
class Plan:
    """A cache of many clips under one processor.

    Attributes
    ----------
    clips
        How many distinct ones there are.
    feature_bytes, waveform_bytes
        Of an entry. Without waveforms 0.
    """

    clips: int
    feature_bytes: float
    waveform_bytes: float

    @property
    def caches(self) -> int:
        """How many entries a clip has."""
        return 2 if self.waveform_bytes else 1

    @property
    def objects(self) -> int:
        """How many entries there are."""
        return self.clips * self.caches

    @property
    def n_bytes(self) -> float:
        """What all entries take."""
        return self.clips * (self.feature_bytes + self.waveform_bytes)


@dataclass(frozen=True)
class Requests:
    """Requests, of a clip or of all of them.

    Attributes
    ----------
    reads
        Objects that are asked for, there or not.
    writes
        Objects that are put.
    bytes_out
        What is read from the store.
    """

    reads: float
    writes: float
    bytes_out: float

    def times(self, clips: float) -> Requests:
        """Return those of so many clips, or of so many a second."""
        return Requests(self.reads * clips, self.writes * clips, self.bytes_out * clips)

    def dollars(self, store: Published, *, leaves_region: bool = False) -> float:
        """Return what they cost."""
        bytes_out = self.bytes_out if leaves_region else 0.0
        requests = self.reads / 1000 * store.get_1000 + self.writes / 1000 * store.put_1000
        return requests + bytes_out / GB * store.gb_out


def filling(plan: Plan) -> Requests:
    """Return the requests that a clip takes the first time: its entries are missed and put, and their use recorded."""
    records = plan.caches / NAMES_OF_A_RECORD
    looks, puts = _REQUESTS_OF_A_RECORD
    return Requests(plan.caches + records * looks, plan.caches + records * puts, 0.0)


def epoch(plan: Plan, near: float = 0.0) -> Requests:
    """Return the requests that a clip takes in a warm epoch, where the share `near` of all reads hits the near tier.

    The use of an entry is recorded once a day, wherever it was read from.
    """
    looks, puts = _REQUESTS_OF_A_RECORD
    far = 1 - near
    return Requests(far + looks / NAMES_OF_A_RECORD, puts / NAMES_OF_A_RECORD, far * plan.feature_bytes)


def listing(objects: float) -> float:
    """Return how many requests a listing of so many objects takes."""
    return math.ceil(objects / NAMES_OF_A_LISTING)


def load(store: Published, rate: Requests) -> float:
    """Return how many times what the store serves from the beginning `rate` is, in requests a second."""
    return max(rate.writes / store.writes_per_second, rate.reads / store.reads_per_second)


def minutes_to_grow(store: Published, rate: Requests) -> float:
    """Return how long a bucket that doubles takes to serve `rate`."""
    return store.minutes_to_double * max(0.0, math.log2(load(store, rate))) if rate.reads or rate.writes else 0.0


def months_to_outweigh_put(store: Published, n_bytes: float) -> float:
    """Return how many months an object of this size is kept for the price of its put."""
    return store.put_1000 / 1000 / (n_bytes / GB * store.gb_month)
