"""What lists are found by comes and goes with its migration, and foreign keys keep theirs."""

import pytest
from alembic import command

from adapters.database.indexes import INDEXES
from adapters.database.schema import _alone, _config, differences, migrate
from adapters.database.session import Database


@pytest.mark.parametrize("database", ["sqlite", pytest.param("mariadb", marks=pytest.mark.lab)])
def test_indexes_come_and_go(database, request, tmp_path):
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    if database == "mariadb":
        url = request.getfixturevalue("mariadb").fresh()
    made = Database(url)
    migrate(made, tmp_path)
    for _ in range(2):
        with _alone(made, tmp_path) as connection:
            command.downgrade(_config(connection), "0005")
            connection.commit()
            changes = differences(connection)
            missing = {each[1].name for each in changes if each[0] == "add_index"}
            connection.rollback()
            assert {index.name for index in INDEXES} <= missing
        migrate(made, tmp_path)
        with made.engine.connect() as connection:
            assert differences(connection) == []
    made.engine.dispose()
