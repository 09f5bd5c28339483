"""Keys, tokens of an operator's accounts, and certificates, made for one test."""

import base64
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import nkeys
import trustme

UNLIMITED = dict.fromkeys(
    (
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
        "consumer",
    ),
    -1,
) | {"wildcards": True}


def key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def public(pair: nkeys.KeyPair) -> str:
    return pair.public_key.decode()


def token(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: object) -> str:
    """A signed statement of NATS's own kind of JWT."""
    now = int(time.time())
    content = {"jti": os.urandom(8).hex(), "iat": now, "iss": public(issuer), "sub": public(subject), "name": kind}
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, content | {"nats": {"type": kind, "version": 2, **claims}})
    text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class Operator:
    """An operator with one account, whose users the server knows by nothing but their tokens."""

    config: str
    account: nkeys.KeyPair

    @classmethod
    def make(cls) -> "Operator":
        operator, account = key(nkeys.PREFIX_BYTE_OPERATOR), key(nkeys.PREFIX_BYTE_ACCOUNT)
        system = key(nkeys.PREFIX_BYTE_ACCOUNT)
        without = UNLIMITED | {"mem_storage": 0, "disk_storage": 0}  # the system account has no JetStream
        tokens = {
            public(each): token(operator, each, "account", limits=limits)
            for each, limits in ((account, UNLIMITED), (system, without))
        }
        config = f"operator: {token(operator, operator, 'operator')}\nsystem_account: {public(system)}\n"
        config += "resolver: MEMORY\nresolver_preload: {\n"
        config += "".join(f"  {name}: {said}\n" for name, said in tokens.items()) + "}\n"
        return cls(config, account)

    def creds(self, file: Path, **permissions: object) -> Path:
        """A user's credentials file."""
        user = key(nkeys.PREFIX_BYTE_USER)
        said = token(self.account, user, "user", subs=-1, data=-1, payload=-1, **permissions)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{said}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return file


class Certificates:
    """An authority, a server's certificate for 127.0.0.1 and a client's; another authority that nobody trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours, others = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        ours.cert_pem.write_to_path(self.ca)
        others.cert_pem.write_to_path(self.other_ca)
        self.server = self._write("server", ours.issue_cert("127.0.0.1"))
        self.elsewhere = self._write("elsewhere", ours.issue_cert("nats.example.org"))
        self.client = self._write("client", ours.issue_cert("client@example.org"))
        self.unknown = self._write("unknown", others.issue_cert("client@example.org"))

    def _write(self, name: str, made: trustme.LeafCert) -> tuple[Path, Path]:
        cert, private = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        made.cert_chain_pems[0].write_to_path(cert)
        made.private_key_pem.write_to_path(private)
        return cert, private
