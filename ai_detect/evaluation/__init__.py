"""Measuring detection quality; the only room that reads labels."""
