"""The store's pages and its API over HTTP: `tfgpt store serve`."""
