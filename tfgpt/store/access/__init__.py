"""Who may do what in a store that is reached over a network: users, groups, keys, private models."""
