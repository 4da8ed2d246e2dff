"""From events to sessions, and from one session to its augmented views."""
