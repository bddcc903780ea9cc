"""A server's certificate and its key, for HTTP and gRPC alike."""
from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """Files in PEM.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: they are no certificate and key, or do not belong together, or the key asks for a passphrase.
    """

    certificate: Path
    """The server's own, with the intermediate ones behind it."""
    key: Path
    """Without a passphrase."""

    def __post_init__(self):
        for name, path in (("certificate", self.certificate), ("key", self.key)):
            if not path.is_file():
                raise FileNotFoundError(f"--tls-{name}: there is no file {path}; give one in PEM")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")  # else OpenSSL would ask on the terminal
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"--tls-certificate {self.certificate} --tls-key {self.key}: cannot be used together ({error}); "
                             "give a certificate and its own key, without a passphrase, in PEM") from error
