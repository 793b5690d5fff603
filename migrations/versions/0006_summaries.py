"""Summaries: what each run scored under every profile, kept beside the facts that it is computed from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summaries",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("definitions", sa.BigInteger(), nullable=False),
        sa.Column("slices_hash", sa.Text(), nullable=False),
        sa.Column("slices", sa.BigInteger(), nullable=False),
        sa.Column("scans", sa.BigInteger(), nullable=False),
        sa.Column("subjects", sa.BigInteger(), nullable=False),
        sa.Column("scores", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_summaries_run_id")),
        sa.PrimaryKeyConstraint("run_id", "part", "profile", "level", name=op.f("pk_summaries")),
    )


def downgrade() -> None:
    op.drop_table("summaries")
