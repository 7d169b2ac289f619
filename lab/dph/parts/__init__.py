"""The eight parts of experiment B.2. Each has `run(effort)` and its own result, a plain value; `drawing` draws them."""
