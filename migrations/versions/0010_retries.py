"""Runs: which one was tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("retry_of", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_runs_retry_of"), "runs", "runs", ["retry_of"], ["id"], ondelete="SET NULL")
    op.create_index(
        op.f("ix_runs_retry_of"),
        "runs",
        ["retry_of"],
        unique=False,
        postgresql_where=sa.text("retry_of IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_runs_retry_of"), table_name="runs", postgresql_where=sa.text("retry_of IS NOT NULL"))
    op.drop_constraint(op.f("fk_runs_retry_of"), "runs", type_="foreignkey")
    op.drop_column("runs", "retry_of")
