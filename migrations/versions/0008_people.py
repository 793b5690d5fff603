"""Summaries: what each subject scored, so that statistics read no slices."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("summaries", sa.Column("people", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("summaries", "people")
