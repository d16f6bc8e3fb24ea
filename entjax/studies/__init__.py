"""Small experiments, each a command that writes a page: python -m entjax.studies.controllers."""
