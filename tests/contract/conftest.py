from collections.abc import Iterator

import pytest

from tests.contract.servers import Ensemble, ensemble, why_no_zookeeper


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    if reason := why_no_zookeeper():
        pytest.skip(reason)
    with ensemble(tmp_path_factory.mktemp("zookeeper"), 1) as made:
        yield made


@pytest.fixture(scope="session")
def zookeeper_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    if reason := why_no_zookeeper():
        pytest.skip(reason)
    with ensemble(tmp_path_factory.mktemp("ensemble"), 3) as made:
        yield made
