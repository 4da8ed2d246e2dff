"""From messages to event templates and the columns of an `EventTable`."""
