"""Rows that models make: phrases and where they stand, judging in both orders, filters, the audit sample."""
