"""Whole migrations in one process, on a clock of their own."""
