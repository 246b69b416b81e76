"""Alembic's entry: run the migrations on the connection that `schema.migrate` opened."""

from alembic import context

from adapters.database.schema import METADATA

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
