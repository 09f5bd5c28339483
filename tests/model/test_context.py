import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsjobs.model.context import (
    MAX_NAME,
    RequestContext,
    checked_name,
    current_context,
    enter_context,
    request_context,
)
from jsjobs.model.errors import JobError, Reason
from outcomes import outcome


def test_outside_of_any_context_nothing_is_known() -> None:
    assert current_context() == RequestContext()
    assert not current_context().within_worker


def test_inner_contexts_keep_what_they_do_not_set_and_end_with_their_block() -> None:
    with request_context(tenant_id="acme", request_id="r1") as outer:
        assert current_context() is outer
        with request_context(request_id="r2") as inner:
            assert (inner.tenant_id, inner.request_id) == ("acme", "r2")
            with request_context(tenant_id="other"):
                assert current_context() == RequestContext(tenant_id="other", request_id="r2")
            assert current_context() is inner
        assert current_context() is outer
    assert current_context() == RequestContext()


def test_a_block_that_raises_ends_its_context_too() -> None:
    with pytest.raises(KeyError), request_context(tenant_id="acme"):
        raise KeyError
    assert current_context() == RequestContext()


async def test_concurrent_tasks_never_see_each_others_context() -> None:
    entered = asyncio.Barrier(50)

    async def request(number: int) -> None:
        with request_context(tenant_id=f"t{number}", request_id=f"r{number}"):
            await entered.wait()
            for _ in range(5):
                await asyncio.sleep(0)
                assert current_context() == RequestContext(tenant_id=f"t{number}", request_id=f"r{number}")
            await asyncio.gather(*(child(number) for _ in range(3)))
            assert current_context().request_id == f"r{number}"
        assert current_context() == RequestContext()

    async def child(number: int) -> None:
        assert current_context().tenant_id == f"t{number}", "a task begins in its parent's context"
        enter_context(RequestContext(tenant_id="mine", job_id="normal-parallel-1"))
        await asyncio.sleep(0)
        assert current_context().within_worker

    await asyncio.gather(*(request(number) for number in range(50)))
    assert current_context() == RequestContext()


async def test_threads_have_their_own_unless_they_are_handed_one() -> None:
    seen = []
    with request_context(tenant_id="acme"):
        thread = threading.Thread(target=lambda: seen.append(current_context()))
        thread.start()
        thread.join()
        seen.append(await asyncio.to_thread(current_context))
    assert [context.tenant_id for context in seen] == [None, "acme"]


@given(st.text())
def test_a_name_is_taken_only_if_it_can_travel_in_a_header(name: str) -> None:
    taken = outcome(checked_name, "the name", name)
    if isinstance(taken, JobError):
        assert taken.reason is Reason.VALIDATION
    else:
        assert taken == name
        assert 1 <= len(name) <= MAX_NAME
        assert name.strip() == name
        assert not any(character in name for character in "\r\n\0")
        assert name.encode().decode() == name


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a\nb", "a\r\nJsjobs-Tenant: b", "a\0", "\ud800", "a\u2028b", "\u200b", "x" * 257]
)
def test_names_that_cannot_travel_are_refused(name: str) -> None:
    with pytest.raises(JobError, match="tenant_id must be"), request_context(tenant_id=name):
        pass
    assert current_context() == RequestContext()


@pytest.mark.parametrize("name", ["a", "x" * 256, "Größe/42", "a b", "日本語", "😀", 'q"uo:te', "100%"])
def test_names_that_can_travel_are_taken(name: str) -> None:
    with request_context(request_id=name) as context:
        assert context.request_id == name
