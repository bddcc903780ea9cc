"""The GPT store: a catalog of published models in a database, and their files by content in a folder or a bucket."""
