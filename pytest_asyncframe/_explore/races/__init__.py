"""Races without the unlucky order: accesses that nothing orders, found in one run."""
