"""From files, folders and pipes to messages with a time, a level and a session key."""
