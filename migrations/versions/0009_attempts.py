"""Attempts: the end of their log, and by which claim each was made."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("log", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("ticket", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "ticket")
    op.drop_column("attempts", "log")
