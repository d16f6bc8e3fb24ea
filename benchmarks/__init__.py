"""Where the numbers of docs/performance.md come from: `entjax bench [NAME ...]`."""
