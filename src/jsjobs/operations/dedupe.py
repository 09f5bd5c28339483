"""Dedupe keys and debounce keys, as the message ids that the server compares."""

from __future__ import annotations

from jsjobs.model.context import DEFAULT_TENANT, current_context


def owned_key(key: str, tenant: str | None, job_type: str) -> str:
    """Return a key that belongs to one tenant and one type only.

    A submit on a tenant's own subject has keys apart, which a submit that only names that tenant cannot reach.
    """
    # A type has no slash; once the tenant has none either, the key can be read in one way only.
    owner = (tenant or DEFAULT_TENANT).replace("%", "%25").replace("/", "%2F")
    # A tenant is never empty either, so nobody else can make a key that begins with a slash.
    apart = "/" if current_context().on_own_subject else ""
    return f"{apart}{owner}/{job_type}/{key}"
