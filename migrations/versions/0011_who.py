"""Who made projects, data sets and printed tables, and who revoked a token."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("projects", "datasets", "printed_tables"):
        op.add_column(table, sa.Column("created_by", sa.Text(), nullable=True))
    op.add_column("tokens", sa.Column("revoked_by", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("tokens", "revoked_by")
    for table in ("printed_tables", "datasets", "projects"):
        op.drop_column(table, "created_by")
