"""Alembic's door: run the revisions on the connection that `migrate` opened."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=False,  # `migrate` opens and commits the one transaction around all
)
context.run_migrations()
