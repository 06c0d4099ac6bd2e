"""Two transfers lock two accounts in opposite orders, and wait for each other: level "locks"."""

from __future__ import annotations

import threading

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe


class Account:
    """An account with a lock."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.balance = 100
        self.lock = threading.Lock()


@background_task
def racy_transfer(payer: Account, payee: Account) -> None:
    """Lock the payer, then the payee."""
    with payer.lock, payee.lock:
        payer.balance -= 10
        payee.balance += 10


@background_task
def correct_transfer(payer: Account, payee: Account) -> None:
    """Lock the account with the lower number first."""
    first, second = sorted((payer, payee), key=lambda account: account.number)
    with first.lock, second.lock:
        payer.balance -= 10
        payee.balance += 10


@pytest.mark.interleave(level="locks")
def test_racy(asyncframe: Probe) -> None:
    """Ann pays Bob while Bob pays Ann."""
    ann, bob = Account(1), Account(2)
    racy_transfer(ann, bob)
    racy_transfer(bob, ann)
    asyncframe.run_until_idle()
    assert (ann.balance, bob.balance) == (100, 100)


@pytest.mark.interleave(level="locks")
def test_correct(asyncframe: Probe) -> None:
    """Ann pays Bob while Bob pays Ann."""
    ann, bob = Account(1), Account(2)
    correct_transfer(ann, bob)
    correct_transfer(bob, ann)
    asyncframe.run_until_idle()
    assert (ann.balance, bob.balance) == (100, 100)
