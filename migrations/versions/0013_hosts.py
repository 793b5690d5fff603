"""Hosts: labels and devices of workers, what is asked of them, labels that runs ask for, memory that runs took."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("workers", "runs"):
        empty = sa.text("'{}'")
        op.add_column(table, sa.Column("labels", postgresql.JSONB(), server_default=empty, nullable=False))
    op.add_column(
        "workers",
        sa.Column("devices", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.add_column("workers", sa.Column("memory_mb", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("wish", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("cost", sa.Text(), nullable=True))
    op.create_table(
        "peaks",
        sa.Column("cost", sa.Text(), nullable=False),
        sa.Column("memory_mb", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cost", name=op.f("pk_peaks")),
    )


def downgrade() -> None:
    op.drop_table("peaks")
    for table, columns in {"runs": ("cost", "labels"), "workers": ("wish", "memory_mb", "devices", "labels")}.items():
        for column in columns:
            op.drop_column(table, column)
