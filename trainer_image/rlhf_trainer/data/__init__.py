"""Rows: from files of any format to tokens in micro-batches."""
