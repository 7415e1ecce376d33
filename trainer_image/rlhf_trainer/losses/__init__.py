"""The formulas: pure functions of tensors."""
