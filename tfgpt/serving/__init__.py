"""SavedModels that take and give text, a server for them, and a client."""
