"""Findings for people: which line, why, and what was expected instead."""
