"""What may be wrong with a dataset. In: shards, read once, in order. Out: pictures, conversion."""

from data_prep.doctor.check import check_shards
from data_prep.doctor.findings import Finding

__all__ = ["Finding", "check_shards"]
