"""Like the contract table: hundreds of programs run a few times each, so they are compiled without optimisations."""

from tests.contract.conftest import quick_to_compile  # noqa: F401
