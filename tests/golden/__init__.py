"""Numbers computed with the papers' own code, and the tests that reproduce them."""
