"""What every head must keep to; ``check_contract`` is for tests of a user's own head."""

from gare_cache.evaluation.contract.checks import check_contract

__all__ = ["check_contract"]
