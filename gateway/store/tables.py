"""The table that belongs to no room: whose database this is."""

from sqlalchemy import Column, Integer, String, Table

from gateway.store.schema import metadata

installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(36), nullable=False),
)
"""One row, made with the table: a name that is drawn, and in the data folder as well."""
