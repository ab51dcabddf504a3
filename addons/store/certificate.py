"""The certificate that relay listens with, checked before mitmproxy reads it: relay says what is wrong with it."""

import os
import ssl
from pathlib import Path

from addons.config.settings import Settings, Tls
from addons.store import StoreError
from addons.store.folder import make_folder, store_error


def certificate_of(settings: Settings) -> Path | None:
    """The PEM file with the key and chain of listen.tls; None, and no file is touched, where relay listens without TLS.

    mitmproxy reads one file, so two are joined in the store's folder. Raises CertificateError.
    """
    tls = settings.listen.tls
    return None if tls is None else certificate(tls, settings.store.path)


class CertificateError(Exception):
    """What relay.yaml names can't be used; the text names the key and what to do."""


def certificate_path(settings: Settings) -> Path | None:
    """Where `certificate_of` has put it."""
    tls = settings.listen.tls
    if tls is None:
        return None
    return tls.cert if tls.cert == tls.key else settings.store.path / _JOINED


_JOINED = "listen.pem"


def certificate(tls: Tls, folder: Path) -> Path:
    """The PEM file with key and chain; two files are joined into one in `folder`, readable by the owner only.

    Raises CertificateError.
    """
    check_pair(tls)
    if tls.cert == tls.key:
        return tls.cert
    try:
        pem = tls.key.read_bytes().rstrip() + b"\n" + tls.cert.read_bytes()
    except OSError as error:
        raise CertificateError(f"listen.tls: {error.filename} can't be read ({error.strerror})") from error
    try:
        make_folder(folder)
        joined = folder / _JOINED
        fresh = folder / f"{_JOINED}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        fresh.replace(joined)
    except StoreError as error:
        raise CertificateError(str(error)) from error
    except OSError as error:
        raise CertificateError(str(store_error(folder, error))) from error
    return joined


def check_pair(tls: Tls) -> None:
    """Raise CertificateError where certificate and key are none, or not of each other."""
    for key, path in (("cert", tls.cert), ("key", tls.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(
                f"listen.tls.{key}: {path} can't be read ({error.strerror}): name a file that can"
            ) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, password=_no_password)
    except _Encrypted:
        raise CertificateError(
            f"listen.tls.key: {tls.key} is encrypted, and relay asks for no password: name a key without one "
            "(openssl pkey -in KEY -out PLAIN makes it)"
        ) from None
    except ssl.SSLError as error:
        raise CertificateError(_misfit(tls, error)) from error


class _Encrypted(Exception):
    """A key that needs a password."""


def _no_password() -> str:
    raise _Encrypted


def _misfit(tls: Tls, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH" or error.reason == "KEY_TYPE_MISMATCH":
        return f"listen.tls: {tls.key} is not the key of the certificate {tls.cert}: name the two that belong together"
    if b"CERTIFICATE-----" not in tls.cert.read_bytes():
        return f"listen.tls.cert: {tls.cert} is no certificate in PEM (it begins with -----BEGIN CERTIFICATE-----)"
    if b"PRIVATE KEY-----" not in tls.key.read_bytes():
        return f"listen.tls.key: {tls.key} is no private key in PEM (it begins with -----BEGIN PRIVATE KEY-----)"
    return f"listen.tls: {tls.cert} and {tls.key} can't be used as certificate and key ({error.reason or error})"


def out_of_date(tls: Tls, now: float) -> str:
    """What to say of a certificate whose time, at `now` in seconds since the epoch, is not; "" where all is well.

    It is no mistake in relay.yaml, and relay serves with it: some clients look, others don't.
    """
    from mitmproxy.certs import Cert  # who has no certificate need not wait for it

    try:
        shown = Cert.from_pem(tls.cert.read_bytes())
    except (OSError, ValueError):
        return ""
    if now > shown.notafter.timestamp():
        return (
            f"{tls.cert} has expired ({shown.notafter:%Y-%m-%d}): clients refuse it; renew it, then start relay again"
        )
    if now < shown.notbefore.timestamp():
        return f"{tls.cert} is not valid before {shown.notbefore:%Y-%m-%d}: clients refuse it; is the clock right?"
    return ""
