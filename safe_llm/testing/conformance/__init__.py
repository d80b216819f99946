"""Proof that a quota store keeps the contract. Needs pytest and Hypothesis."""

from __future__ import annotations

import pytest

from ...stores import QuotaStore

for _part in ("admission", "concurrency", "history", "leases", "processes", "settling", "windows", "words"):
    pytest.register_assert_rewrite(f"{__name__}._{_part}")  # So that a failure shows the values.

from ._admission import Admission  # noqa: E402
from ._clock import Clock  # noqa: E402
from ._concurrency import Concurrency  # noqa: E402
from ._leases import Leases  # noqa: E402
from ._processes import Forks, Sharing  # noqa: E402
from ._settling import Settling  # noqa: E402
from ._windows import Windows  # noqa: E402

__all__ = ["QuotaStoreConformance", "SharedQuotaStoreConformance"]


class QuotaStoreConformance(Admission, Settling, Windows, Leases, Concurrency, Forks):
    """The contract of a `QuotaStore`, as a pytest class. It takes some seconds.

    ::

        class TestMyStore(QuotaStoreConformance):
            def make_store(self):
                return MyStore()

    `make_store` returns a fresh, empty store: a `QuotaStore`, or an `AsyncQuotaStore`, which is driven on an event loop
    of its own. It may be a coroutine function. The store is closed after each test.

    Time is not waited for but set, through the store's attribute `clock` or its method ``follow(clock)``, as a client
    sets it; `set_clock` is there to be overridden by a store that does it in another way. A store that takes no clock
    is proved in real time.

    A store that other processes reach as well is proved by `SharedQuotaStoreConformance`.
    """

    histories = 50
    """How many random histories are compared with what `MemoryQuotaStore` makes of them."""

    def test_any_history_is_answered_as_the_memory_store_answers_it(self, store: QuotaStore, clock: Clock) -> None:
        """Every answer, tally and wait is the same, by clients whose clocks differ a little."""
        from ._history import check_histories

        check_histories(store, clock, self.histories)


class SharedQuotaStoreConformance(QuotaStoreConformance, Sharing):
    """The contract of a `QuotaStore` that several processes share: that of one process, and what holds among them.

    ::

        class TestMyStore(SharedQuotaStoreConformance):
            @pytest.fixture(autouse=True)
            def at(self, tmp_path):
                self.path = tmp_path / "quota"

            def make_store(self):
                return MyStore(self.path)

            def reopen(self):
                return MyStore(self.path)

    `reopen` returns another store over the data of the last one that `make_store` made. It is called in forked
    children, four at once, some of which are killed.
    """
