"""The contract of every head; ``check_contract`` is for tests of a custom head."""

from gare_cache.evaluation.contract.checks import check_contract

__all__ = ["check_contract"]
