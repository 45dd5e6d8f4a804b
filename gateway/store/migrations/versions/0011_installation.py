"""Store: the name of the installation. Batch: what a client token came with, keys included."""

import sqlalchemy as sa
from alembic import op

from gateway.ids import new_request_id

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the table with its one row, and a column that client tokens have from now on.

    Why a name here and in the data folder: what the database does not know is removed from the
    folder, and a folder of another database would lose all it has.

    Why the column may be empty: what older tokens came with is known with its keys masked only.
    """
    table = op.create_table(
        "installation",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(36), nullable=False),
    )
    op.bulk_insert(table, [{"id": 1, "name": new_request_id()}])
    op.add_column("batch_client_token", sa.Column("sealed_digest", sa.LargeBinary))
