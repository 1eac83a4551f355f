"""A cluster under load that replaces its certificate hierarchy: by a member that joins, by its removal, on demand."""
