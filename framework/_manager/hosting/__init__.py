"""The framework's side of shared stores and remote engines: what they report, and hand over."""
