"""Alembic's door: run the revisions on the connection that `migrate` opened."""

from alembic import context

from gateway.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,  # for its naming convention: revisions name constraints as tables do
    transactional_ddl=False,  # `migrate` opens and commits the one transaction around all
)
context.run_migrations()
